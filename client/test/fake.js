// A phone and a gateway in memory. The test controls their time: t.mock.timers.

export const base = 'https://api.example.com'
export const appid = 'wx0123456789abcdef'

// A gateway that keeps the endpoints' contract, for one app.
export class FakeGateway {
  constructor() {
    this.users = new Map() // phone → user
    this.bound = new Map() // openid → user
    this.sessions = new Map() // id → {user, counter, advanced, ended}
    this.tokens = new Map() // token → {session, ends}
    this.logins = new Map() // codes of a login → its answer, for a minute
    this.seen = [] // [method path, body, headers]
    this.faults = []
    this.lifetime = 3600
    this.ids = 0
    this.api = r => ({ statusCode: 200, data: { user: r.user && r.user.id } })
  }

  // fault makes the next requests to a path fail. what is a function of the request that
  // returns the answer, or 'lost' (carried out, never answered), 'unsent' (not carried out),
  // or 'hangs' (no callback at all).
  fault(path, what, times = 1) { for (let i = 0; i < times; i++) this.faults.push({ path, what }) }
  count(path) { return this.seen.filter(([what]) => what === path).length }
  last(path) { return this.seen.findLast(([what]) => what === path) }

  answer(request) {
    const path = request.url.replace(base, '').replace(/\?.*/, '')
    this.seen.push([request.method + ' ' + path, request.data, request.header || {}])
    const i = this.faults.findIndex(f => f.path === path)
    const fault = i < 0 ? undefined : this.faults.splice(i, 1)[0].what
    if (fault === 'unsent' || fault === 'hangs') return fault
    const answer = typeof fault === 'function' ? fault(request) : this.carry(path, request)
    return fault === 'lost' ? 'unsent' : answer
  }

  carry(path, { data, header = {}, method }) {
    const bearer = (header.Authorization || '').replace(/^Bearer /, '')
    const token = this.tokens.get(bearer)
    const live = token && Date.now() < token.ends && !token.session.ended
    const refused = bearer ? problem(401, live === false && token.session.ended ? 'token_revoked' : token ? 'token_expired' : 'token_invalid') : problem(401, 'token_missing')
    switch (method + ' ' + path) {
      case 'POST /auth/wx': return this.login(data)
      case 'POST /auth/wx/refresh': return this.refresh(data.refreshToken)
      case 'POST /auth/wx/logout': {
        const shown = [token && token.session, this.sessions.get((data.refreshToken || '').split('|')[0])].filter(Boolean)
        if (!shown.length) return problem(401, 'refresh_invalid')
        const lives = data.all && shown.some(s => !s.ended)
        for (const s of this.sessions.values()) if (shown.includes(s) || (lives && s.user === shown[0].user)) s.ended = true
        return data.all && !lives ? problem(401, 'session_ended') : { statusCode: 204 }
      }
      case 'POST /auth/wx/phone': {
        if (!live) return refused
        const phone = phoneOf(data.phoneCode)
        if (this.users.has(phone) && this.users.get(phone) !== token.session.user) return problem(409, 'phone_taken')
        this.users.delete(token.session.user.phoneNumber)
        token.session.user.phoneNumber = phone
        this.users.set(phone, token.session.user)
        const { refreshToken, ...rest } = this.pair(token.session)
        return { statusCode: 200, data: { ...rest, userInfo: { ...token.session.user } } }
      }
      case 'GET /auth/wx/me': return live ? { statusCode: 200, data: token.session.user } : refused
      default:
        if (path.startsWith('/public') && !bearer) return this.api({ path, data, header })
        return live ? this.api({ path, data, header, user: token.session.user }) : refused
    }
  }

  login({ code, phoneCode, appid: app, refreshToken, testLogin }) {
    if (app !== appid) return problem(400, 'invalid_request')
    if (testLogin) return testLogin === 'reviewer' ? this.open(this.userOf('+8613000000000'), true) : problem(401, 'test_login_invalid')
    const key = code + ' ' + phoneCode
    const kept = this.logins.get(key)
    if (kept && Date.now() - kept.at < 60000) return kept.answer
    if (this.logins.has('used ' + code)) return problem(400, 'login_code_invalid', { renew: ['code'] })
    const openid = code.split('-')[0]
    if (!phoneCode && !this.bound.has(openid)) return problem(403, 'phone_required')
    const user = phoneCode ? this.userOf(phoneOf(phoneCode)) : this.bound.get(openid)
    if (user.disabled) return problem(403, 'user_disabled')
    this.bound.set(openid, user)
    const old = this.sessions.get((refreshToken || '').split('|')[0])
    if (old) old.ended = true
    const answer = this.open(user, false)
    this.logins.set(key, { answer, at: Date.now() }).set('used ' + code, true)
    return answer
  }

  userOf(phone) {
    if (!this.users.has(phone)) this.users.set(phone, { id: 'user-' + ++this.ids, phoneNumber: phone })
    return this.users.get(phone)
  }

  open(user) {
    const session = { id: 'session-' + ++this.ids, user, counter: 1 }
    this.sessions.set(session.id, session)
    return { statusCode: 200, data: { ...this.pair(session), userInfo: { ...user } } }
  }

  refresh(refreshToken) {
    const [id, counter] = refreshToken.split('|')
    const session = this.sessions.get(id)
    if (!session) return problem(401, 'refresh_invalid')
    if (session.ended) return problem(401, 'session_ended', { reason: session.ended })
    if (session.user.disabled) { session.ended = 'revoked'; return problem(403, 'user_disabled') }
    if (Number(counter) === session.counter) { session.counter++; session.advanced = Date.now() }
    else if (Number(counter) !== session.counter - 1 || Date.now() - session.advanced > 60000) {
      session.ended = 'expired'
      return problem(401, 'session_ended', { reason: 'expired' })
    }
    return { statusCode: 200, data: this.pair(session) }
  }

  pair(session) {
    const token = 'token-' + ++this.ids
    this.tokens.set(token, { session, ends: Date.now() + this.lifetime * 1000 })
    return { token, tokenType: 'Bearer', expiresIn: this.lifetime, refreshToken: session.id + '|' + session.counter, refreshExpiresIn: 2592000 }
  }

  // live returns the sessions that have not ended.
  get live() { return [...this.sessions.values()].filter(s => !s.ended) }
}

// phoneCode returns the code that the button gives for a number. Each code is different.
let taps = 0
export const phoneCode = number => number + '/' + ++taps
const phoneOf = code => '+86' + code.split('/')[0]

export const problem = (statusCode, code, more = {}, header = {}) =>
  ({ statusCode, header: { 'content-type': 'application/problem+json', ...header }, data: { code, status: statusCode, detail: 'for developers', requestId: 'r1', ...more } })
export const html = statusCode => ({ statusCode, header: { 'content-type': 'text/html' }, data: '<html>nginx</html>' })

// fakePhone returns a phone with one mini program. Its storage outlives a restart: pass it to
// the next phone.
export function fakePhone(gateway, { openid = 'openid-of-li-lei', storage = new Map() } = {}) {
  let codes = 0
  const mp = {
    storage, opened: [], logins: 0, sockets: [], dead: false,
    getAccountInfoSync: () => ({ miniProgram: { appId: appid, envVersion: 'develop' } }),
    getAppBaseInfo: () => ({ language: 'zh_CN' }),
    getStorageSync: key => (storage.has(key) ? JSON.parse(storage.get(key)) : ''),
    setStorageSync: (key, value) => { if (!mp.dead) storage.set(key, JSON.stringify(value)) },
    login({ success, fail }) {
      mp.logins++
      const fault = mp.loginFaults.shift()
      if (fault === 'hangs') return
      queueMicrotask(() => (fault ? fail({ errMsg: 'login:fail ' + fault }) : success({ code: openid.replace(/-/g, '_') + '-' + ++codes + '-' + Math.random() })))
    },
    loginFaults: [],
    request: o => deliver(o, answer => answer),
    uploadFile: o => deliver({ ...o, method: 'POST' }, answer => ({ ...answer, data: JSON.stringify(answer.data) })),
    downloadFile: o => deliver({ ...o, method: 'GET' }, ({ statusCode }) => ({ statusCode, tempFilePath: 'wxfile://1' })),
    connectSocket(o) {
      const task = { o, onOpen: f => { task.open = f }, onError: f => { task.error = f } }
      mp.sockets.push(task)
      return task
    },
    navigateTo(o) { mp.opened.push(o.url); queueMicrotask(() => o.complete()) }
  }
  const deliver = (o, shape) => {
    const task = { aborted: false, abort() { task.aborted = true } }
    mp.lastTask = task
    const answer = gateway.answer({ method: 'GET', ...o, data: o.data && JSON.parse(JSON.stringify(o.data)) })
    if (answer === 'hangs') return task
    setImmediate(() => (mp.dead ? undefined : answer === 'unsent' ? o.fail({ errMsg: 'request:fail timeout' }) : o.success(shape({ header: {}, ...answer }))))
    return task
  }
  return mp
}

// within lets time pass until the promise has settled, and returns its result. It fails after
// the deadline.
export async function within(t, promise, deadline = 120000) {
  let settled = false
  promise.then(() => { settled = true }, () => { settled = true })
  for (let passed = 0; !settled; passed += 100) {
    if (passed > deadline) throw new Error('it did not end in ' + deadline + ' ms')
    for (let i = 0; i < 6 && !settled; i++) await new Promise(setImmediate)
    if (!settled) t.mock.timers.tick(100)
  }
  return promise
}
