// The user, the token decoded, and the headers that the API received.
import { byId, make, t } from './words.js'
import { stored } from './phone.js'

const decode = part => JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part.replace(/-/g, '+').replace(/_/g, '/')), c => c.charCodeAt(0))))
const empty = name => make('p', 'soft', t(name))

let seen // the latest request of a user that reached the API

export function atAPI(e) {
  if ((e.headers || {})['X-Wx-User-Id']) seen = e
}
export function clear() { seen = undefined }

function table(pairs) {
  return make('dl', '', ...pairs.flatMap(([name, value, note]) => [make('dt', '', name), make('dd', '', make('code', '', value), note ? make('small', '', note) : undefined)]))
}

let expiry // the element that shows the remaining time
function countdown() {
  if (!expiry || !expiry.node.isConnected) return
  const s = Math.max(0, Math.round(expiry.at - Date.now() / 1000))
  expiry.node.textContent = t('exp') + ' ' + Math.floor(s / 60) + ':' + String(s % 60).padStart(2, '0')
}
setInterval(countdown, 1000)

const shown = v => (typeof v === 'string' ? (v.length > 40 ? v.slice(0, 38) + '…' : v) : JSON.stringify(v))
const first = ['sub', 'exp', 'sid', 'openid', 'wx']
const others = ['client_id', 'auth_time', 'iss', 'aud', 'iat', 'jti']
let unfolded = false // whether the other claims are shown

function tokenOf(token) {
  const parts = token.split('.')
  const names = ['header', 'payload', 'signature']
  const whole = make('p', 'jwt')
  parts.forEach((part, i) => whole.append(i ? '.' : '', make('span', names[i], part.length > 90 ? part.slice(0, 60) + '…' + part.slice(-20) : part)))
  const [head, claims] = [decode(parts[0]), decode(parts[1])]
  const rows = names => names.filter(name => claims[name] !== undefined).map(name => {
    const time = ['exp', 'iat', 'auth_time'].includes(name)
    return [name, time ? new Date(claims[name] * 1000).toLocaleTimeString('en-GB') : shown(claims[name]), t(name)]
  })
  const list = table(rows(first))
  expiry = { at: claims.exp, node: list.querySelectorAll('dd')[1].querySelector('small') }
  const more = make('details', '', make('summary', '', t('more')), table(rows(others)), make('h3', 'header', t('header')), table(Object.entries(head).map(([name, v]) => [name, shown(v), t(name)])))
  more.open = unfolded
  more.ontoggle = () => { unfolded = more.open }
  return make('div', '', whole, make('h3', 'payload', t('payload')), list, more)
}

// render shows the current state.
export function render() {
  const { token, user } = stored()
  byId('user').replaceChildren(user
    ? make('div', 'person in', make('span', 'face'), make('p', '', make('strong', '', user.phoneNumber), make('span', 'chip ' + (user.isNew ? 'good' : 'who'), t(user.isNew ? 'isNew' : 'known')), make('code', '', user.id)))
    : empty('userEmpty'))
  byId('token').replaceChildren(token ? tokenOf(token) : empty('tokenEmpty'))
  byId('headers').replaceChildren(seen
    ? make('div', '', make('p', 'line', make('code', '', make('b', '', seen.method), ' ' + seen.path)), table(Object.entries(seen.headers).sort().map(([name, value]) => [name.toUpperCase(), value])), make('p', 'soft note', t('headersNote')))
    : empty('headersEmpty'))
  countdown()
}
