// Reads the event of the phone button.
import { WxAuthError } from './error.js'

const errnos = { 102: 'phone_unavailable', 103: 'phone_denied', 104: 'privacy_denied', 112: 'privacy_undeclared', 1400001: 'phone_quota' }

// phoneCodeOf returns the code in a getphonenumber event. A tap without a code is an error, so
// that the page always has a text to show.
export function phoneCodeOf(event) {
  const detail = event.detail || {}
  if (detail.code) return detail.code
  const text = detail.errMsg || ''
  throw new WxAuthError(errnos[detail.errno] || (/deny|denied|cancel/.test(text) ? 'phone_denied' : 'phone_failed'), { detail: text })
}
