// The mini program's side of the caddy-wx-auth gateway. See README.md.
import { WxAuthError, buttonFor, useLanguage } from './error.js'
import { phoneCodeOf } from './button.js'
import { ended, isOurs, problemOf, wait } from './transport.js'

export { WxAuthError, buttonFor }

const early = 5000 // a token is renewed this many milliseconds before its end
const paidFor = 5 * 60 * 1000 // the gateway keeps WeChat's answer to a phone code this long
const longestPause = 10 // seconds; a longer Retry-After is left to the user

export function createAuth(options) {
  const {
    mp, loginPage, endpoints = '/auth/wx', storageKey = 'wx-auth', timeout = 15000, simulator,
    onLoginNeeded = () => loginPage && new Promise(done => mp.navigateTo({ url: loginPage, complete: done }))
  } = options
  if (!mp || !/^https?:\/\//.test(options.base || '')) throw new TypeError('createAuth needs mp and base')
  const base = options.base.replace(/\/+$/, '')
  const appid = options.appid || (simulator && simulator.appid) || (mp.getAccountInfoSync ? mp.getAccountInfoSync().miniProgram.appId : undefined)
  if (!appid) throw new TypeError('createAuth needs the appid here')
  useLanguage(options.language || languageOf(mp))

  // session is {token, refreshToken, until, user}. After a logout it is {out: true}, with
  // leaving: {token, refreshToken, all} until the gateway has confirmed the logout.
  let session = read()
  let generation = 0 // counts logouts: an answer to a request from before a logout is not kept
  let paid // the codes of the last phone login that failed: {code, phoneCode, at}
  const listeners = new Set()

  function read() {
    try { return mp.getStorageSync(storageKey) || {} } catch (e) { return {} }
  }
  function keep(next) {
    const before = JSON.stringify(session.user)
    session = next
    try { mp.setStorageSync(storageKey, next) } catch (e) { /* full: it lasts until the end of the process */ }
    if (JSON.stringify(next.user) !== before) for (const f of listeners) f(api.user)
  }
  // opened keeps the answer to a login, a refresh or a change of number.
  function opened(answer, mine) {
    const next = {
      token: answer.token, refreshToken: answer.refreshToken || session.refreshToken,
      until: Date.now() + answer.expiresIn * 1000 - early, user: answer.userInfo || session.user
    }
    if (mine !== generation) { // the user has logged out meanwhile, so this session must end too
      if (session.out) keep({ out: true, leaving: { ...session.leaving, token: next.token, ...(next.refreshToken && { refreshToken: next.refreshToken }) } })
      throw new WxAuthError('logged_out')
    }
    keep(next)
  }

  // inTurn runs jobs that change the session one after the other.
  let tail = Promise.resolve()
  const inTurn = job => {
    const result = tail.then(job)
    tail = result.catch(() => {})
    return result
  }

  const send = (name, o, ms = o.timeout || 60000) => ended(ms, 'no_answer', (success, fail) => {
    const task = mp[name]({ ...o, timeout: ms, success, fail })
    if (o.onTask) o.onTask(task)
    return task
  })

  // ask sends a request to one of the gateway's endpoints, once.
  async function ask(method, path, data, token) {
    const header = { 'Content-Type': 'application/json' }
    if (token) header.Authorization = 'Bearer ' + token
    const r = await send('request', { url: base + endpoints + path, method, data, header }, timeout)
    const whole = r.statusCode === 204 || (r.data && typeof r.data === 'object')
    if (r.statusCode < 300 && whole) return r.data
    throw problemOf(r) || new WxAuthError('bad_answer', { status: r.statusCode, detail: 'not from the gateway' })
  }

  // insist sends a request until there is a final answer. It sends the same again if the
  // answer was lost or the gateway asks for that. If renew names the login code, it sends a
  // new one.
  async function insist(path, data, token) {
    const start = Date.now()
    for (let tries = 1; ; tries++) {
      try { return await ask('POST', path, data, token) } catch (e) {
        const renew = e.renew || []
        const final = e.code === 'invalid_request' || e.code === 'misconfigured' || renew.includes('phoneCode') || (renew.includes('code') && !data.code) ||
          !(e.renew || e.status === 0 || e.status >= 500 || e.status < 300 || e.code === 'bad_answer' || e.code === 'too_early' || e.code === 'rate_limited')
        if (final || tries === 3 || e.retryAfter > longestPause || Date.now() - start > 2 * timeout) throw e
        await wait((e.retryAfter || tries) * 1000)
        if (renew.includes('code')) data.code = await loginCode()
      }
    }
  }

  const loginCode = () => simulator
    ? simulator.login()
    : ended(timeout, 'login_failed', (done, fail) => { mp.login({ provider: 'weixin', success: r => (r.code ? done(r.code) : fail(r)), fail }) })

  async function phoneCode(by) {
    if (!by || typeof by === 'string') return by
    return simulator && !(by.detail && by.detail.code) ? simulator.phone() : phoneCodeOf(by)
  }

  // open logs in, with a phone code or silently.
  async function open(phoneCode, mine, used) {
    if (used && used.phoneCode !== phoneCode) used = undefined
    const data = { code: used && used.code, appid, phoneCode, refreshToken: (session.leaving || session).refreshToken }
    try {
      if (!data.code) data.code = await loginCode()
      const answer = await insist('', data)
      paid = undefined
      opened(answer, mine)
    } catch (e) {
      if (phoneCode && mine === generation) {
        const again = !(e.status >= 400 && e.status < 500) || e.status === 429 || e.renew
        const renew = again ? e.renew || [] : ['phoneCode']
        paid = renew.includes('phoneCode') ? undefined : { phoneCode, code: renew.includes('code') ? undefined : data.code, at: used ? used.at : Date.now() }
      }
      throw e
    }
  }

  // renew replaces the token that was used. All callers that need a new token at the same time
  // share one refresh.
  let renewing
  function renew(used) {
    if (session.token && session.token !== used) return Promise.resolve()
    if (!renewing) {
      const done = () => { renewing = undefined }
      renewing = inTurn(async () => {
        if (session.token && session.token !== used) return
        if (session.out) throw new WxAuthError('logged_out')
        const mine = generation
        if (session.refreshToken) {
          try {
            return opened(await insist('/refresh', { refreshToken: session.refreshToken }), mine)
          } catch (e) {
            if (e.status === 403) keep({}) // disabled: the gateway has ended the session
            if (e.status !== 401) throw e // anything else is no reason to log in again
            if (mine !== generation) throw new WxAuthError('logged_out')
            session = { ...session, refreshToken: undefined, token: undefined }
          }
        }
        try { await open(undefined, mine) } catch (e) {
          if (e.status === 403 && mine === generation) keep({})
          throw e
        }
      })
      renewing.then(done, done)
    }
    return renewing
  }
  const ready = async () => {
    if (!session.token || Date.now() >= session.until) await renew(session.token)
    return api.user
  }

  // The login page is opened once, however many requests need it, and opened again only after
  // it was closed.
  const pages = () => (typeof getCurrentPages === 'function' ? getCurrentPages().map(page => page.route) : [])
  const page = loginPage && loginPage.replace(/^\/|\?.*$/g, '')
  let asking // the promise of onLoginNeeded, until the page is open
  let problem // the problem for which onLoginNeeded was called
  const isOpen = () => Boolean(asking || (page && pages().includes(page)))
  async function loggedIn() {
    if (problem && isOpen() && !session.token) return needed(problem)
    try { return await ready() } catch (e) { return needed(e) }
  }
  // needed opens the login page. If the user is logged in when onLoginNeeded's promise ends,
  // the request continues.
  async function needed(e) {
    if (buttonFor(e) === 'retry' || e.code === 'user_changed') throw e
    problem = e
    if (!isOpen()) {
      asking = Promise.resolve(e).then(onLoginNeeded).catch(() => {})
      // A new page appears in getCurrentPages only after a moment.
      asking.then(() => wait(1000)).then(() => { asking = undefined })
    }
    await asking
    if (!session.token) throw e
    return api.user
  }

  let refused // the token of the last WebSocket handshake that failed

  const userId = () => session.user && session.user.id
  function urlOf(url, root) {
    if (/^\/(?!\/)/.test(url)) return root + url
    if (url && url.startsWith(root + '/')) return url
    throw new TypeError('not a path, and not of ' + root + ': ' + url)
  }

  // call sends one of the app's requests with the token. If the gateway refuses the token, it
  // sends the request once more with another token.
  async function call(name, { login = true, ...o }) {
    if (o.success || o.fail || o.complete) throw new TypeError('request returns a promise and takes no callbacks')
    o.url = urlOf(o.url, base)
    const who = userId()
    const same = () => { if (who && userId() && userId() !== who) throw new WxAuthError('user_changed') }
    if (login) await loggedIn()
    else if (session.token) await ready().catch(() => {})
    for (let tries = 1; ; tries++) {
      same()
      const { token } = session
      const r = await send(name, { ...o, header: { ...o.header, ...(token && { Authorization: 'Bearer ' + token }) } })
      let refusal = problemOf(r)
      if (r.statusCode === 401 && !refusal && name === 'downloadFile') refusal = await ask('GET', '/me', undefined, token).catch(e => e)
      if (refusal && r.statusCode === 403 && refusal.code === 'phone_login_required') {
        if (tries === 2) throw refusal
        const before = session.token
        await needed(refusal)
        if (session.token === before) throw refusal
      } else if (isOurs(refusal)) {
        if (tries === 2 || (!login && !token)) throw refusal
        try { await renew(token) } catch (e) {
          if (login) await needed(e)
          else if (session.token) throw e
        }
      } else return r
    }
  }

  // leave confirms a logout with the gateway, for the newest tokens that are known.
  async function leave() {
    const { leaving } = session
    if (!leaving) return
    const { token, refreshToken, all } = leaving
    try {
      await insist('/logout', { refreshToken, ...(all && { all }) }, token)
    } catch (e) {
      if (e.status !== 401) throw e
      if (session.leaving === leaving) keep({ out: true })
      if (all) throw e // other devices are still logged in
    }
    if (session.leaving === leaving) keep({ out: true })
  }

  const api = {
    // The user who is logged in, or null.
    get user() { return session.user || null },
    onChange(f) {
      listeners.add(f)
      return () => listeners.delete(f)
    },
    ready,
    async login(by) {
      const mine = generation
      const code = await phoneCode(by)
      return inTurn(async () => {
        if (mine !== generation) throw new WxAuthError('logged_out')
        const used = paid && Date.now() - paid.at < paidFor ? paid : undefined
        await open(code || (used && used.phoneCode), mine, used)
        problem = undefined
        return api.user
      })
    },
    testLogin: secret => inTurn(async () => {
      opened(await insist('', { testLogin: secret, appid }), generation)
      return api.user
    }),
    request: o => call('request', o),
    uploadFile: o => call('uploadFile', o),
    downloadFile: o => call('downloadFile', o),
    async connectSocket(o) {
      const url = urlOf(o.url, base.replace(/^http/, 'ws'))
      if (refused && refused === session.token) await renew(refused).catch(needed)
      else await loggedIn()
      const { token } = session
      const how = o.tokenIn || (typeof document === 'object' ? 'protocol' : 'header')
      const task = mp.connectSocket({
        ...o, url: how === 'query' ? url + (url.includes('?') ? '&' : '?') + 'access_token=' + token : url,
        header: how === 'header' ? { ...o.header, Authorization: 'Bearer ' + token } : o.header,
        protocols: how === 'protocol' ? ['bearer', token, ...(o.protocols || [])] : o.protocols,
        complete() {} // uni returns the task only if there is a callback
      })
      // A page cannot see the status of a failed handshake, so the next handshake uses another
      // token.
      let isOpen = false
      task.onOpen(() => { isOpen = true })
      task.onError(() => { if (!isOpen) refused = token })
      return task
    },
    async logout({ all = false } = {}) {
      const { token, refreshToken, leaving } = session
      if (!session.out) {
        generation++
        paid = problem = undefined
        keep(token || refreshToken ? { out: true, leaving: { token, refreshToken, all } } : { out: true })
      } else if (leaving && all) keep({ out: true, leaving: { ...leaving, all } })
      return inTurn(leave)
    },
    async changePhone(by) {
      const code = await phoneCode(by)
      if (!code) throw new TypeError('changePhone needs a phone code')
      const who = userId()
      for (let tries = 1; ; tries++) {
        await loggedIn()
        const { token } = session
        try {
          return await inTurn(async () => {
            const mine = generation
            if (userId() !== who && who) throw new WxAuthError('user_changed')
            opened(await insist('/phone', { phoneCode: code }, token), mine)
            return api.user
          })
        } catch (e) {
          if (tries === 2 || !isOurs(e)) throw e
          await renew(token).catch(needed)
        }
      }
    },
    buttonFor
  }
  if (session.leaving) inTurn(leave).catch(() => {}) // the gateway has not confirmed the last logout
  return api
}

function languageOf(mp) {
  try { return (mp.getAppBaseInfo || mp.getSystemInfoSync || (() => ({})))().language } catch (e) { return '' }
}
