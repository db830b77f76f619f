// An adapter for axios: axios.create({ adapter: axiosAdapter(auth) }). The gateway's problems
// arrive as WxAuthError, everything else as axios's own errors.
import axios from 'axios'

const { AxiosError, AxiosHeaders } = axios

export const axiosAdapter = auth => async config => {
  const { login, signal } = config
  let task
  const abort = () => task && task.abort && task.abort()
  if (signal) {
    if (signal.aborted) throw new axios.CanceledError(undefined, config)
    signal.addEventListener('abort', abort)
  }
  let r
  try {
    r = await auth.request({
      url: axios.getUri(config), method: (config.method || 'get').toUpperCase(), data: config.data, login,
      header: AxiosHeaders.from(config.headers).toJSON(), timeout: config.timeout || undefined,
      responseType: config.responseType === 'arraybuffer' ? 'arraybuffer' : 'text', dataType: 'text', onTask: t => { task = t }
    })
  } catch (e) {
    throw signal && signal.aborted ? new axios.CanceledError(undefined, config) : e
  } finally {
    if (signal) signal.removeEventListener('abort', abort)
  }
  const response = { data: r.data, status: r.statusCode, statusText: '', headers: AxiosHeaders.from(r.header || {}), config, request: task }
  const good = config.validateStatus
  if (!good || good(response.status)) return response
  const code = response.status < 500 ? AxiosError.ERR_BAD_REQUEST : AxiosError.ERR_BAD_RESPONSE
  throw new AxiosError('Request failed with status code ' + response.status, code, config, task, response)
}
