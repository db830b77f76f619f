// What the phone button's event says.
import { WxAuthError } from './error.js'

const errnos = { 102: 'phone_unavailable', 103: 'phone_denied', 104: 'privacy_denied', 112: 'privacy_undeclared', 1400001: 'phone_quota' }

// The code that a getphonenumber event carries. A tap that gave none is an error, so that
// the page always has something to say.
export function phoneCodeOf(event) {
  const detail = event.detail || {}
  if (detail.code) return detail.code
  const text = detail.errMsg || ''
  throw new WxAuthError(errnos[detail.errno] || (/deny|denied|cancel/.test(text) ? 'phone_denied' : 'phone_failed'), { detail: text })
}
