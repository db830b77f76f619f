// An adapter for alova: createAlova({ requestAdapter: alovaAdapter(auth), … }). responded gets
// what wx.request returns: { statusCode, data, header }.

export const alovaAdapter = auth => ({ url, type, headers, data }, method) => {
  let task
  const { timeout, login } = method.config
  const answer = auth.request({ url, method: type, data, header: headers, login, timeout: timeout || undefined, onTask: t => { task = t } })
  answer.catch(() => {}) // alova asks for the headers only after the response
  return {
    response: () => answer,
    headers: async () => (await answer).header || {},
    abort: () => task && task.abort && task.abort()
  }
}
