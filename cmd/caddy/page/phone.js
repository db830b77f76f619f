// The mini program: a shop that uses the client as any other app would.
import { createAuth } from './client/index.js'
import { fetchMP } from './client/fetch.js'
import { byId, isChinese, make, say, t } from './words.js'

export const post = async (path, data) => {
  const r = await fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(data || {}) })
  if (!r.ok) throw new Error(await r.text())
  return r.status === 204 ? undefined : r.json()
}

const key = 'wx-auth'
const kept = sessionStorage // this tab's storage, in place of a mini program's
let auth
let numbers = []
let changed = () => {}

// stored returns what the client keeps: the token and the user.
export const stored = () => JSON.parse(kept.getItem(key) || '{}')
export const loggedIn = () => Boolean(auth && auth.user)

function start(appid) {
  const storage = { getItem: k => kept.getItem(k), setItem: (k, v) => { kept.setItem(k, v); changed() } }
  auth = createAuth({
    base: location.origin + '/gateway', mp: fetchMP({ storage }), appid, storageKey: key, onLoginNeeded: logIn,
    // The demo's server simulates wx.login and the phone button.
    simulator: {
      appid,
      login: async () => (await post('/demo/codes')).code,
      phone: async () => (await post('/demo/codes', { phone: chosen() })).phoneCode
    }
  })
}

// install starts the mini program on a visitor's phone.
export async function install({ name, body, onChange }) {
  if (kept.getItem('visitor') !== name) {
    kept.clear()
    kept.setItem('visitor', name)
  }
  numbers = body.numbers
  changed = () => { onChange(); render() }
  leave()
  start(body.appid)
  showNumbers()
  changed()
  await showGoods()
}

// age makes the token look expired, so that the next request refreshes it.
export function age(appid) {
  kept.setItem(key, JSON.stringify({ ...stored(), until: 0 }))
  start(appid)
}

// The shop

let goods = []
async function showGoods() {
  const { data } = await auth.request({ url: '/public/goods', login: false }).catch(() => ({}))
  // Another Caddyfile may refuse the list to guests.
  goods = Array.isArray(data) ? data : [{ id: 'tea', zh: '一杯茶', en: 'A cup of tea', price: 20 }]
  speak()
}

// speak shows the shop in the current language.
export function speak() {
  byId('goods').replaceChildren(...goods.map(g => {
    const button = make('button', 'order', t('order'))
    button.dataset.id = g.id
    button.setAttribute('aria-label', t('order') + ' ' + say([g.zh, g.en]))
    button.onclick = () => order(button, g.id)
    return make('li', 'item ' + g.id, make('span', 'tile', g.zh[g.zh.length - 1]), make('p', '', make('strong', '', say([g.zh, g.en])), make('small', '', '¥' + g.price)), button)
  }))
  render()
}

export function render() {
  if (!auth) return
  const { user } = auth
  byId('who').textContent = user ? user.phoneNumber : t('guest')
  byId('who-more').textContent = user ? t('member') : t('guestMore')
  byId('account').classList.toggle('in', Boolean(user))
  byId('logout').hidden = !user
  byId('problem').textContent = problem ? textOf(problem) : ''
}

const textOf = e => (e.texts ? e.texts[isChinese() ? 'zh' : 'en'] : e.message)

let fading
function toast(text, bad) {
  clearTimeout(fading)
  const e = byId('toast')
  e.textContent = text
  e.classList.toggle('bad', Boolean(bad))
  e.classList.add('shown')
  fading = setTimeout(() => e.classList.remove('shown'), 4000)
}

// ordered sends an order. Within a second after the login page was closed, the client does not
// open it again, so this opens it.
async function ordered(id) {
  const send = () => auth.request({ url: '/orders', method: 'POST', data: { goods: id } })
  try { return await send() } catch (e) {
    if (left || !['login', 'phone'].includes(auth.buttonFor(e))) throw e
    await logIn(e)
    if (!loggedIn()) throw e
    return send()
  }
}

async function order(button, id) {
  if (button.getAttribute('aria-busy')) return
  button.setAttribute('aria-busy', 'true')
  try {
    const r = await ordered(id)
    toast(r.statusCode === 200 ? t('ordered') : String(r.statusCode), r.statusCode !== 200)
  } catch (e) {
    if (!left) toast(textOf(e), true)
    left = false
  }
  button.removeAttribute('aria-busy')
}

byId('logout').onclick = async () => {
  await auth.logout().catch(() => {})
  toast(t('loggedOut'))
}

// The login page

let problem // the problem for which the page is open
let left = false // the user has closed it
let closed // ends the client's wait for the login page

const show = login => {
  byId('view-login').hidden = !login
  byId('view-shop').hidden = Boolean(login)
}

// logIn opens the login page. The client calls it when only the user can help.
function logIn(why) {
  refuseWith(why)
  show(true)
  return new Promise(done => { closed = done })
}

function leave() {
  if (byId('sheet').open) byId('sheet').close()
  show(false)
  problem = undefined
  if (closed) closed()
  closed = undefined
}

function refuseWith(e) {
  problem = e
  const button = auth.buttonFor(e)
  for (const name of ['phone', 'plain', 'retry']) byId('login-' + name).hidden = name !== ({ login: 'plain' }[button] || button)
  render()
}

async function attempt(button, by) {
  if (button.getAttribute('aria-busy')) return
  button.setAttribute('aria-busy', 'true')
  try {
    await auth.login(by)
    leave()
  } catch (e) {
    refuseWith(e)
  }
  button.removeAttribute('aria-busy')
}

byId('login-plain').onclick = e => attempt(e.target)
byId('login-retry').onclick = e => attempt(e.target)
byId('login-back').onclick = () => { left = true; leave() }

// This is WeChat's own sheet, in which the user picks a number.

const chosen = () => new FormData(byId('sheet').querySelector('form')).get('number')

function showNumbers() {
  const legend = byId('numbers').firstElementChild
  byId('numbers').replaceChildren(legend, ...numbers.map((number, i) => {
    const input = make('input')
    Object.assign(input, { type: 'radio', name: 'number', value: number, checked: i === 0 })
    const small = make('small')
    small.dataset.t = i === 0 ? 'bound' : 'another'
    small.textContent = t(small.dataset.t)
    return make('label', 'number', input, make('span', '', make('strong', '', number.replace(/(...)(....)/, '$1 $2 ')), small))
  }))
}

byId('login-phone').onclick = () => {
  byId('sheet').returnValue = ''
  byId('sheet').show()
  byId('numbers').querySelector('input:checked').focus()
}
byId('refuse').onclick = () => byId('sheet').close('')
byId('sheet').onkeydown = e => { if (e.key === 'Escape') byId('sheet').close('') }
byId('sheet').onclose = () => {
  if (byId('sheet').open) return // the event comes late: the sheet is open again
  const button = byId('login-phone')
  button.focus()
  if (byId('sheet').returnValue === 'allow') attempt(button, { detail: {} })
}
