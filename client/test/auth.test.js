// The client runs on a fake phone, with a gateway in memory. The tests control time and
// faults.
import test from 'node:test'
import assert from 'node:assert/strict'
import { createAuth, WxAuthError } from '../src/index.js'
import { FakeGateway, appid, base, fakePhone, html, phoneCode, problem, within } from './fake.js'

const start = new Date('2026-03-01T08:00:00Z').getTime()
const later = 2 * 3600 * 1000

// story is a test with a gateway, a phone and a client, whose time the test controls.
function story(name, run, options = {}) {
  test(name, async t => {
    t.mock.timers.enable({ apis: ['setTimeout', 'Date'], now: start })
    const gateway = new FakeGateway()
    const mp = fakePhone(gateway)
    const needed = []
    const all = { base, mp, onLoginNeeded: p => { needed.push(p.code) }, ...options }
    const s = {
      t, gateway, mp, needed, auth: createAuth(all),
      restart: more => createAuth({ ...all, mp: fakePhone(gateway, { storage: mp.storage }), ...more }),
      end: p => within(t, p),
      fails: async (p, code) => {
        const e = await within(t, p).then(() => assert.fail('it did not fail'), e => e)
        assert.ok(e instanceof WxAuthError, String(e.stack || e))
        assert.equal(e.code, code)
        return e
      },
      pass: ms => t.mock.timers.tick(ms),
      loggedIn: async () => s.end(s.auth.login(phoneCode('13800138000')))
    }
    await run(s)
  })
}

// The gateway does not know a newcomer's WeChat account, so the silent login fails. Then the
// phone button's code identifies them.
story('silent first, then the phone number', async s => {
  const e = await s.fails(s.auth.login(), 'phone_required')
  assert.equal(s.auth.buttonFor(e), 'phone')
  assert.equal(e.text, '请使用手机号登录')
  const user = await s.end(s.auth.login(phoneCode('13800138000')))
  assert.equal(user.phoneNumber, '+8613800138000')
  assert.equal(s.auth.user.id, user.id)
  // At the next start it knows them, even with the empty storage of another phone.
  const again = createAuth({ base, mp: fakePhone(s.gateway) })
  assert.equal((await s.end(again.ready())).id, user.id)
})

// Several mini programs are served. Behind WeChat's own gateway no Referer arrives, so the
// client must send the appid.
story('the appid is always sent', async s => {
  await s.loggedIn()
  await s.end(s.auth.login())
  for (const [what, body] of s.gateway.seen) if (what === 'POST /auth/wx') assert.equal(body.appid, appid)
  assert.throws(() => createAuth({ base, mp: { ...s.mp, getAccountInfoSync: undefined } }), /appid/)
})

// Fifty requests meet an expired token at once. They must share one refresh, because only ten
// a minute are allowed.
story('one refresh for all that meet a 401', async s => {
  await s.loggedIn()
  for (const token of s.gateway.tokens.values()) token.ends = 0 // earlier than the phone expects
  const answers = await s.end(Promise.all(Array.from({ length: 50 }, () => s.auth.request({ url: '/orders' }))))
  assert.ok(answers.every(r => r.statusCode === 200))
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 1)
  assert.equal(s.gateway.count('GET /orders'), 100)
})

// After an hour in a pocket, the client knows that the token has ended, and sends no request
// with it.
story('a token that is known to have ended', async s => {
  await s.loggedIn()
  s.pass(later)
  await s.end(Promise.all([1, 2, 3].map(() => s.auth.uploadFile({ url: '/photos', filePath: 'wxfile://a', name: 'f' }))))
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 1)
  assert.equal(s.gateway.count('POST /photos'), 3)
})

// The phone kills the app after the gateway has refreshed and before the result is stored.
story('killed between refresh and storage', async s => {
  const { id } = await s.loggedIn()
  s.pass(later)
  s.gateway.fault('/auth/wx/refresh', 'lost')
  s.mp.dead = true
  s.auth.request({ url: '/orders' }).catch(() => {})
  for (let i = 0; i < 10; i++) await new Promise(setImmediate)
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 1)
  const again = s.restart()
  const answers = await s.end(Promise.all([1, 2, 3].map(() => again.request({ url: '/orders' }))))
  assert.ok(answers.every(r => r.data.user === id))
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 2)
  assert.equal(s.gateway.live.length, 1)
  // If the client notices only a day later, the session is over, and a silent login opens the
  // next one.
  s.pass(24 * later)
  s.gateway.fault('/auth/wx/refresh', 'lost', 3)
  await s.fails(again.request({ url: '/orders' }), 'no_answer')
  s.pass(later)
  assert.equal((await s.end(s.restart().request({ url: '/orders' }))).data.user, id)
  assert.equal(s.gateway.live.length, 1)
})

// In a lift, the login was carried out and its answer was lost.
story('a lost login is sent again as it was', async s => {
  s.gateway.fault('/auth/wx', 'lost')
  const user = await s.end(s.auth.login(phoneCode('13800138000')))
  assert.equal(s.gateway.count('POST /auth/wx'), 2)
  assert.deepEqual(s.gateway.seen[0][1], s.gateway.seen[1][1])
  assert.equal(s.gateway.live.length, 1)
  assert.ok(user.id)
})

// There is no network for a while. "retry" sends the phone code that was paid for.
story('retry does not pay twice', async s => {
  s.gateway.fault('/auth/wx', 'unsent', 3)
  const code = phoneCode('13800138000')
  const e = await s.fails(s.auth.login(code), 'no_answer')
  assert.equal(s.auth.buttonFor(e), 'retry')
  const user = await s.end(s.auth.login())
  assert.equal(user.phoneNumber, '+8613800138000')
  assert.equal(s.gateway.last('POST /auth/wx')[1].phoneCode, code)
  assert.equal(s.mp.logins, 1)
})

// WeChat forgets a phone code after five minutes, so a later retry needs a new one.
story('an old phone code is not sent', async s => {
  s.gateway.fault('/auth/wx', 'unsent', 3)
  await s.fails(s.auth.login(phoneCode('13800138000')), 'no_answer')
  s.pass(301000)
  await s.fails(s.auth.login(), 'phone_required')
})

// renew names the codes that must be fetched again.
story('a fresh login code where renew names it', async s => {
  s.gateway.fault('/auth/wx', () => problem(400, 'login_code_invalid', { renew: ['code'] }))
  const code = phoneCode('13800138000')
  await s.end(s.auth.login(code))
  const [first, second] = s.gateway.seen.map(([, body]) => body)
  assert.notEqual(first.code, second.code)
  assert.deepEqual([first.phoneCode, second.phoneCode], [code, code])
  s.gateway.fault('/auth/wx', () => problem(400, 'phone_code_invalid', { renew: ['code', 'phoneCode'] }))
  const e = await s.fails(s.auth.login(phoneCode('13900139000')), 'phone_code_invalid')
  assert.equal(s.auth.buttonFor(e), 'phone')
  await s.end(s.auth.login())
  assert.equal(s.gateway.last('POST /auth/wx')[1].phoneCode, undefined)
})

// 429 says how long to wait. Half a minute is too long to wait silently, so the user decides.
story('Retry-After is honoured', async s => {
  s.gateway.fault('/auth/wx', () => problem(429, 'rate_limited', {}, { 'Retry-After': '7' }))
  const before = Date.now()
  await s.loggedIn()
  assert.ok(Date.now() - before >= 7000 && Date.now() - before < 9000)
  s.gateway.fault('/auth/wx', () => problem(429, 'rate_limited', {}, { 'retry-after': '30' }))
  const e = await s.fails(s.auth.login(), 'rate_limited')
  assert.equal(e.retryAfter, 30)
  assert.equal(s.auth.buttonFor(e), 'retry')
})

// A refresh fails because of an outage. That is no reason to log in again, and the session
// stays.
story('no other status means log in again', async s => {
  await s.loggedIn()
  for (const answer of [problem(503, 'store_unavailable'), html(502), html(200)]) {
    s.pass(later)
    s.gateway.fault('/auth/wx/refresh', () => answer, 3)
    const e = await s.fails(s.auth.request({ url: '/orders' }), answer.data.code || 'bad_answer')
    assert.equal(s.auth.buttonFor(e), 'retry')
  }
  assert.equal(s.gateway.count('POST /auth/wx'), 1)
  assert.deepEqual(s.needed, [])
  assert.equal((await s.end(s.auth.request({ url: '/orders' }))).statusCode, 200)
})

// An API answers 401 for its own reasons, such as a payment password.
story('a 401 of the API is not ours', async s => {
  await s.loggedIn()
  for (const data of [{ code: 'pin_required' }, { code: 1 }, 'Unauthorized', null]) {
    s.gateway.api = () => ({ statusCode: 401, data })
    assert.equal((await s.end(s.auth.request({ url: '/pay' }))).statusCode, 401)
    assert.equal((await s.end(s.auth.downloadFile({ url: '/invoice' }))).statusCode, 401)
  }
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 0)
  assert.equal(s.gateway.count('POST /auth/wx'), 1)
})

// The answer to a refused download is in a file. The client asks the gateway whether the 401
// was the gateway's.
story('a download with a revoked token', async s => {
  await s.loggedIn()
  for (const session of s.gateway.sessions.values()) session.ended = 'revoked'
  assert.equal((await s.end(s.auth.downloadFile({ url: '/invoice' }))).statusCode, 200)
  for (const session of s.gateway.sessions.values()) session.ended = 'revoked'
  assert.equal((await s.end(s.auth.uploadFile({ url: '/photos', filePath: 'wxfile://a', name: 'f' }))).statusCode, 200)
})

// A user logs out on a borrowed phone. A page that polls must not log them in again.
story('nothing logs in after a logout', async s => {
  const { id } = await s.loggedIn()
  await s.end(s.auth.logout())
  assert.equal(s.auth.user, null)
  assert.equal(s.gateway.live.length, 0)
  const logins = s.mp.logins
  await s.fails(s.auth.request({ url: '/orders' }), 'logged_out')
  await s.fails(s.auth.ready(), 'logged_out')
  const again = s.restart()
  const e = await s.fails(again.request({ url: '/orders' }), 'logged_out')
  assert.equal(again.buttonFor(e), 'login')
  assert.equal(s.mp.logins, logins)
  // A tap on "log in" logs them in.
  assert.equal((await s.end(again.login())).id, id)
})

// A refresh is in progress when the user logs out. Its session must not come back.
story('a logout overtakes a refresh', async s => {
  await s.loggedIn()
  s.pass(later)
  const request = s.auth.request({ url: '/orders' })
  const refused = s.fails(request, 'logged_out')
  await new Promise(setImmediate)
  const left = s.auth.logout({ all: true })
  assert.equal(s.auth.user, null)
  await refused
  await s.end(left)
  assert.equal(s.gateway.live.length, 0)
  assert.deepEqual(s.mp.getStorageSync('wx-auth'), { out: true })
})

// A login is in progress when the user leaves. The session that it opens must end too.
story('a logout overtakes a login', async s => {
  s.gateway.fault('/auth/wx', 'lost')
  const login = s.fails(s.auth.login(phoneCode('13800138000')), 'logged_out')
  for (let i = 0; i < 5; i++) await new Promise(setImmediate)
  await s.end(s.auth.logout())
  await login
  assert.equal(s.auth.user, null)
  assert.equal(s.gateway.live.length, 0)
})

// A user logs out in a lift. The phone forgets the session at once, and the gateway gets the
// logout at the next start.
story('a logout without a network', async s => {
  await s.loggedIn()
  s.gateway.fault('/auth/wx/logout', 'unsent', 3)
  await s.fails(s.auth.logout(), 'no_answer')
  assert.equal(s.auth.user, null)
  assert.equal(s.gateway.live.length, 1)
  const again = s.restart()
  await s.fails(again.ready(), 'logged_out')
  assert.equal(s.gateway.live.length, 0)
})

// With all, every device of the user is logged out.
story('logout of all devices', async s => {
  await s.loggedIn()
  const tablet = createAuth({ base, mp: fakePhone(s.gateway) })
  await s.end(tablet.ready())
  s.pass(later) // the token has ended; the refresh token is current
  await s.end(s.auth.logout({ all: true }))
  assert.equal(s.gateway.live.length, 0)
})

// Ten requests need a login. The page opens once, and opens again only after it was closed.
story('the login page opens once', async s => {
  const stack = [{ route: 'pages/home/home' }]
  globalThis.getCurrentPages = () => stack
  try {
    const auth = createAuth({ base, mp: s.mp, loginPage: '/pages/login/login' })
    await Promise.all(Array.from({ length: 10 }, () => s.fails(auth.request({ url: '/orders' }), 'phone_required')))
    assert.deepEqual(s.mp.opened, ['/pages/login/login'])
    stack.push({ route: 'pages/login/login' })
    s.pass(5000)
    const logins = s.mp.logins
    await s.fails(auth.request({ url: '/orders' }), 'phone_required')
    assert.equal(s.mp.opened.length, 1)
    assert.equal(s.mp.logins, logins, 'a silent login is not tried again below an open login page')
    stack.pop() // back, without a login
    await s.fails(auth.request({ url: '/orders' }), 'phone_required')
    assert.equal(s.mp.opened.length, 2)
    stack.push({ route: 'pages/login/login' })
    await s.end(auth.login(phoneCode('13800138000')))
    assert.equal((await s.end(auth.request({ url: '/orders' }))).statusCode, 200)
  } finally {
    delete globalThis.getCurrentPages
  }
})

// An app shows a dialog instead of a page. The request continues once the login is done.
story('onLoginNeeded may do the login itself', async s => {
  const auth = createAuth({ base, mp: s.mp, onLoginNeeded: () => auth.login(phoneCode('13800138000')) })
  const answers = await s.end(Promise.all([1, 2, 3].map(() => auth.request({ url: '/orders' }))))
  assert.ok(answers.every(r => r.statusCode === 200))
  assert.equal(s.gateway.live.length, 1)
})

// People may look around before they log in.
story('a page that needs no login asks for none', async s => {
  assert.equal((await s.end(s.auth.request({ url: '/public/goods', login: false }))).statusCode, 200)
  assert.deepEqual(s.needed, [])
  assert.equal(s.mp.logins, 0)
  await s.loggedIn()
  await s.end(s.auth.request({ url: '/goods', login: false }))
  assert.match(s.gateway.last('GET /goods')[2].Authorization, /^Bearer token/)
})

// Another WeChat account is logged in on the same phone. An order must not be repeated as that
// account's.
story('a request is not repeated as another user', async s => {
  const first = await s.loggedIn()
  const other = createAuth({ base, mp: fakePhone(s.gateway, { openid: 'openid-of-han' }) })
  const second = await s.end(other.login(phoneCode('13900139000')))
  const seen = []
  const auth = createAuth({ base, mp: fakePhone(s.gateway, { openid: 'openid-of-han', storage: s.mp.storage }) })
  auth.onChange(user => seen.push(user.id))
  assert.equal(auth.user.id, first.id)
  for (const session of s.gateway.sessions.values()) if (session.user.id === first.id) session.ended = 'revoked'
  await s.fails(auth.request({ url: '/orders', method: 'POST', data: { book: 1 } }), 'user_changed')
  assert.equal(s.gateway.count('POST /orders'), 1)
  assert.deepEqual(seen, [second.id])
})

// The shop has disabled a user. The user gets one message, without a button.
story('a final refusal has no button', async s => {
  const { id } = await s.loggedIn()
  for (const user of s.gateway.users.values()) if (user.id === id) user.disabled = true
  s.pass(later)
  const e = await s.fails(s.auth.request({ url: '/orders' }), 'user_disabled')
  assert.equal(s.auth.buttonFor(e), '')
  assert.equal(s.auth.user, null)
  assert.deepEqual(s.needed, ['user_disabled'])
})

// WeChat's phone button gave no code, and its errno says why.
story('a tap on the button that yields no code', async s => {
  for (const [detail, code, button] of [
    [{ errMsg: 'getPhoneNumber:fail user deny' }, 'phone_denied', 'phone'],
    [{ errMsg: 'getPhoneNumber:fail', errno: 1400001 }, 'phone_quota', ''],
    [{ errMsg: 'getPhoneNumber:fail privacy permission is not authorized', errno: 104 }, 'privacy_denied', 'phone'],
    [{ errMsg: 'getPhoneNumber:fail api scope is not declared', errno: 112 }, 'privacy_undeclared', ''],
    [{ errMsg: 'getPhoneNumber:fail no permission', errno: 102 }, 'phone_unavailable', ''],
    [{ errMsg: 'getPhoneNumber:fail jsapi has no permission' }, 'phone_failed', 'phone'],
    [{}, 'phone_failed', 'phone']
  ]) {
    const e = await s.fails(s.auth.login({ detail }), code)
    assert.equal(s.auth.buttonFor(e), button, code)
  }
  assert.equal(s.gateway.seen.length, 0)
  const user = await s.end(s.auth.login({ detail: { errMsg: 'getPhoneNumber:ok', code: phoneCode('13800138000') } }))
  assert.equal(user.phoneNumber, '+8613800138000')
})

// A user has a new SIM card. The account stays, and its number changes.
story('change of number', async s => {
  const { id } = await s.loggedIn()
  const seen = []
  const stop = s.auth.onChange(user => seen.push(user.phoneNumber))
  s.gateway.fault('/auth/wx/phone', 'lost')
  for (const token of s.gateway.tokens.values()) token.ends = 0
  const user = await s.end(s.auth.changePhone(phoneCode('13700137000')))
  assert.deepEqual([user.id, user.phoneNumber], [id, '+8613700137000'])
  assert.deepEqual(seen, ['+8613700137000'])
  stop()
  const other = createAuth({ base, mp: fakePhone(s.gateway, { openid: 'openid-of-han' }) })
  await s.end(other.login(phoneCode('13900139000')))
  const e = await s.fails(s.auth.changePhone(phoneCode('13900139000')), 'phone_taken')
  assert.equal(s.auth.buttonFor(e), 'phone')
  assert.equal((await s.end(s.auth.request({ url: '/orders' }))).data.user, id)
})

// Where money is at stake, the gateway asks for the phone number again.
story('an old phone login is not enough', async s => {
  await s.loggedIn()
  s.gateway.fault('/pay', () => problem(403, 'phone_login_required', { renew: ['code', 'phoneCode'] }))
  const e = await s.fails(s.auth.request({ url: '/pay', method: 'POST' }), 'phone_login_required')
  assert.equal(s.auth.buttonFor(e), 'phone')
  assert.deepEqual(s.needed, ['phone_login_required'])
  assert.ok(s.auth.user)
})

// Reviewers do not log in with a phone number of their own.
story('the reviewer logs in without WeChat', async s => {
  await s.fails(s.auth.testLogin('wrong'), 'test_login_invalid')
  assert.ok((await s.end(s.auth.testLogin('reviewer'))).id)
  assert.equal(s.mp.logins, 0)
})

// wx.login and wx.request sometimes never call back. No promise may wait for ever.
story('everything ends', async s => {
  s.mp.loginFaults.push('hangs')
  await s.fails(s.auth.login(), 'login_failed')
  s.mp.loginFaults.push('system error')
  await s.fails(s.auth.login(), 'login_failed')
  s.gateway.fault('/auth/wx', 'hangs', 3)
  const before = Date.now()
  await s.fails(s.auth.login(phoneCode('13800138000')), 'no_answer')
  assert.ok(Date.now() - before < 60000)
  await s.end(s.auth.login())
  s.gateway.fault('/orders', 'hangs')
  await s.fails(s.auth.request({ url: '/orders', timeout: 5000 }), 'no_answer')
  assert.ok(s.mp.lastTask.aborted)
})

// The token is sent to the gateway only.
story('no other host gets the token', async s => {
  await s.loggedIn()
  for (const url of ['https://evil.example/x', '//evil.example/x', base + '.evil.example/', base + '@evil.example/', 'orders', undefined]) {
    await assert.rejects(s.auth.request({ url }), TypeError, String(url))
  }
  await s.end(s.auth.request({ url: base + '/orders' }))
  await assert.rejects(s.auth.request({ url: '/orders', success() {} }), /promise/)
})

// The status of a handshake is not visible. After a failed handshake, the next one uses
// another token.
story('a WebSocket with a token of the moment', async s => {
  await s.loggedIn()
  s.pass(later)
  const task = await s.end(s.auth.connectSocket({ url: '/chat' }))
  assert.equal(task.o.url, 'wss://api.example.com/chat')
  const { Authorization } = task.o.header
  task.error({ errMsg: 'fail' })
  const next = await s.end(s.auth.connectSocket({ url: '/chat', tokenIn: 'protocol' }))
  assert.equal(next.o.protocols[0], 'bearer')
  assert.notEqual('Bearer ' + next.o.protocols[1], Authorization)
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 2)
  next.open()
  next.error({ errMsg: 'closed' })
  const third = await s.end(s.auth.connectSocket({ url: '/chat?room=1', tokenIn: 'query' }))
  assert.match(third.o.url, /\/chat\?room=1&access_token=token/)
  assert.equal(s.gateway.count('POST /auth/wx/refresh'), 2)
})

// A login ends the session that is still open on this phone. Otherwise a year of logins would
// use up the twenty sessions.
story('the old session goes with a new login', async s => {
  await s.loggedIn()
  await s.loggedIn()
  assert.equal(s.gateway.live.length, 1)
})

// If the storage is full, the session is lost at the next start, and not before.
story('storage that fails', async s => {
  s.mp.setStorageSync = () => { throw new Error('full') }
  s.mp.getStorageSync = () => { throw new Error('broken') }
  const auth = createAuth({ base, mp: s.mp })
  await s.end(auth.login(phoneCode('13800138000')))
  assert.equal((await s.end(auth.request({ url: '/orders' }))).statusCode, 200)
})
