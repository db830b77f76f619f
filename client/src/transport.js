// Requests as promises that always end, and the problem in an answer.
import { WxAuthError } from './error.js'

export const wait = ms => new Promise(done => setTimeout(done, ms))

// ended starts something and waits for its end, at most ms milliseconds. start gets two
// functions, for success and failure, and may return a task to abort. The limit is needed
// because WeChat's calls sometimes never call back.
export const ended = (ms, code, start) => new Promise((done, failed) => {
  let task
  const fail = detail => { clearTimeout(timer); failed(new WxAuthError(code, { detail })) }
  const timer = setTimeout(() => {
    if (task && task.abort) task.abort()
    fail('no answer in ' + ms + ' ms')
  }, ms)
  task = start(value => { clearTimeout(timer); done(value) }, e => fail((e && e.errMsg) || String(e)))
})

// headerOf returns a header, whatever its case: platforms differ.
export function headerOf(response, name) {
  const headers = response.header || response.headers || {}
  const found = Object.keys(headers).find(key => key.toLowerCase() === name)
  return found && String(headers[found])
}

// problemOf returns the gateway's problem in an answer, or undefined. The answer to an upload
// is text.
export function problemOf(response) {
  let body = response.data
  if (typeof body === 'string') {
    try { body = JSON.parse(body) } catch (e) { return undefined }
  }
  if (!body || typeof body.code !== 'string') return undefined
  const { code, detail, renew, reason, requestId } = body
  const retryAfter = Number(headerOf(response, 'retry-after')) || undefined
  return new WxAuthError(code, { status: response.statusCode, detail, renew, reason, requestId, retryAfter })
}

// isOurs reports whether the gateway refused the token. Any other 401 comes from the API.
export const isOurs = problem => Boolean(problem && problem.status === 401 && problem.code.startsWith('token_'))
