// The client runs against the built gateway, with the simulator in WeChat's place.
import test from 'node:test'
import assert from 'node:assert/strict'
import { createAuth } from '../src/index.js'
import { leftOut, serviceKey, startWorld, until } from './world.js'

const tap = { detail: {} } // the button's event; in development the simulator supplies the code
const options = { skip: leftOut, timeout: 400000 }
const html = status => res => { res.writeHead(status, { 'Content-Type': 'text/html' }); res.end('<html>nginx</html>') }

// aged makes the phone believe that its token is still good, as if its clock were slow.
function aged(phone) {
  const session = JSON.parse(phone.memory.get('wx-auth'))
  phone.memory.set('wx-auth', JSON.stringify({ ...session, until: Date.now() + 3600000 }))
  return session
}

// A page sends fifty requests after the token has ended while the phone was asleep.
test('fifty requests on an expired token', options, async t => {
  const world = await startWorld(t, 'token {\nlifetime 5s\nleeway 0s\n}')
  const phone = world.phone()
  const { id } = await createAuth(phone).login(tap)
  const { token } = aged(phone)
  const auth = createAuth(phone)
  await until(async () => (await fetch(world.base + '/orders', { headers: { Authorization: 'Bearer ' + token } })).status === 401)
  world.requests.length = 0
  const answers = await Promise.all(Array.from({ length: 50 }, () => auth.request({ url: '/orders' })))
  assert.deepEqual([...new Set(answers.map(r => r.data.user))], [id])
  assert.equal(world.count('POST /auth/wx/refresh'), 1)
  assert.equal(world.count('POST /auth/wx'), 0)
  assert.equal(world.count('GET /orders'), 100)
})

test('the client and the gateway', options, async t => {
  const world = await startWorld(t)
  const sessions = async auth => (await auth.request({ url: '/auth/wx/sessions' })).data.sessions

  await t.test('silent first, then the phone number', async () => {
    const auth = createAuth(world.phone())
    const e = await auth.login().catch(e => e)
    assert.equal(e.code, 'phone_required')
    assert.ok(e.requestId)
    const user = await auth.login(tap)
    assert.equal(user.phoneNumber, '+8613800138000')
    const r = await auth.request({ url: '/orders' })
    assert.deepEqual(r.data, { user: user.id, phone: '+8613800138000', size: 0 })
    assert.equal((await createAuth(world.phone()).ready()).id, user.id)
  })

  // The answers to a login and to a refresh are lost. The gateway gives the same answers
  // again.
  await t.test('lost answers', async () => {
    const phone = world.phone({ user: 'lost', phone: '13700137001' })
    const auth = createAuth(phone)
    world.fault('/auth/wx', 'lost', 2)
    const user = await auth.login(tap)
    assert.equal((await sessions(auth)).length, 1)
    assert.equal((await world.control('GET', 'phonecodes')).filter(c => c.user === 'lost').length, 1)
    const session = aged(phone)
    phone.memory.set('wx-auth', JSON.stringify({ ...session, until: 0 }))
    const next = createAuth(phone)
    world.fault('/auth/wx/refresh', 'lost')
    assert.equal((await next.request({ url: '/orders' })).data.user, user.id)
    assert.equal((await sessions(next)).length, 1)
    world.fault('/auth/wx/logout', 'lost')
    await next.logout()
  })

  // A user has a new SIM card in the same phone. The answer is lost, and the gateway gives it
  // again.
  await t.test('change of number', async () => {
    const phone = world.phone({ user: 'mover', phone: '13700137021' })
    const { id } = await createAuth(phone).login(tap)
    const auth = createAuth(world.phone({ user: 'mover', phone: '13700137022', memory: phone.memory }))
    world.fault('/auth/wx/phone', 'lost')
    const user = await auth.changePhone(tap)
    assert.deepEqual([user.id, user.phoneNumber], [id, '+8613700137022'])
    assert.deepEqual((await auth.request({ url: '/orders' })).data, { user: id, phone: '+8613700137022', size: 0 })
    assert.equal((await sessions(auth)).length, 1)
    assert.equal((await world.control('GET', 'phonecodes')).filter(c => c.user === 'mover').length, 2)
    const taken = createAuth(world.phone({ user: 'mover', phone: '13800138000', memory: phone.memory }))
    const e = await taken.changePhone(tap).catch(e => e)
    assert.deepEqual([e.code, e.status, taken.buttonFor(e)], ['phone_taken', 409, 'phone'])
    assert.equal((await taken.request({ url: '/orders' })).data.phone, '+8613700137022')
  })

  // The system kills the app between the refresh and the storage of its result.
  await t.test('killed between refresh and storage', async () => {
    const phone = world.phone({ user: 'killed', phone: '13700137002' })
    const { id } = await createAuth(phone).login(tap)
    const session = JSON.parse(phone.memory.get('wx-auth'))
    const before = JSON.stringify({ ...session, until: 0 })
    phone.memory.set('wx-auth', before)
    await createAuth(phone).ready()
    phone.memory.set('wx-auth', before)
    const auth = createAuth(phone)
    assert.deepEqual(await Promise.all([1, 2, 3].map(async () => (await auth.request({ url: '/orders' })).data.user)), [id, id, id])
    assert.equal((await sessions(auth)).length, 1)
  })

  // Ten refreshes a minute are allowed. The eleventh waits as long as Retry-After says.
  await t.test('429', async () => {
    const phone = world.phone({ user: 'often', phone: '13700137003' })
    await createAuth(phone).login(tap)
    let { refreshToken } = JSON.parse(phone.memory.get('wx-auth'))
    const raw = () => fetch(world.base + '/auth/wx/refresh', { method: 'POST', body: JSON.stringify({ refreshToken }), headers: { 'Content-Type': 'application/json' } })
    let refused
    for (let i = 0; i < 30 && !refused; i++) {
      const r = await raw()
      if (r.status === 200) refreshToken = (await r.json()).refreshToken
      else refused = r
    }
    assert.equal(refused.status, 429)
    assert.ok(Number(refused.headers.get('retry-after')) > 0)
    phone.memory.set('wx-auth', JSON.stringify({ ...JSON.parse(phone.memory.get('wx-auth')), refreshToken, until: 0 }))
    world.requests.length = 0
    assert.equal((await createAuth(phone).request({ url: '/orders' })).statusCode, 200)
    assert.ok(world.count('POST /auth/wx/refresh') >= 2)
  })

  // A proxy answers with a page of its own. Then there is no network at all.
  await t.test('HTML from a proxy', async () => {
    const auth = createAuth(world.phone({ user: 'proxy', phone: '13700137004' }))
    world.fault('/auth/wx', html(502))
    world.fault('/auth/wx', html(200))
    assert.ok((await auth.login(tap)).id)
    world.fault('/auth/wx', 'down', 3)
    const e = await auth.login().catch(e => e)
    assert.equal(e.code, 'no_answer')
    assert.equal((await auth.request({ url: '/orders' })).statusCode, 200)
  })

  // WeChat does not answer, although the tap was paid for. "retry" succeeds when it is back.
  await t.test('retry does not pay twice', async () => {
    await world.control('POST', 'faults', { call: 'getuserphonenumber', kind: 'status', count: 2 })
    const auth = createAuth(world.phone({ user: 'paid', phone: '13700137005' }))
    const user = await auth.login(tap).catch(e => {
      assert.equal(auth.buttonFor(e), 'retry')
      return auth.login()
    })
    assert.equal(user.phoneNumber, '+8613700137005')
    assert.equal((await world.control('GET', 'phonecodes')).filter(c => c.user === 'paid').length, 1)
    await world.control('DELETE', 'faults')
  })

  // Two people have a phone each. Then one of them uses the other's phone.
  await t.test('two accounts', async () => {
    const [hers, his] = [world.phone({ user: 'han', phone: '13700137006' }), world.phone({ user: 'lin', phone: '13700137007' })]
    const [a, b] = [createAuth(hers), createAuth(his)]
    const [han, lin] = await Promise.all([a.login(tap), b.login(tap)])
    assert.notEqual(han.id, lin.id)
    assert.equal((await a.request({ url: '/orders' })).data.user, han.id)
    assert.equal((await b.request({ url: '/orders' })).data.user, lin.id)
    await fetch(world.base + '/auth/wx/service/revoke', {
      method: 'POST', body: JSON.stringify({ userId: han.id }), headers: { 'Content-Type': 'application/json', Authorization: 'Bearer ' + serviceKey }
    })
    const taken = createAuth({ ...hers, simulator: his.simulator })
    const e = await taken.request({ url: '/orders', method: 'POST', data: { book: 1 } }).catch(e => e)
    assert.equal(e.code, 'user_changed')
    assert.equal(taken.user.id, lin.id)
    assert.equal(world.seen.filter(s => s.startsWith('POST /orders')).length, 0)
  })

  // The user logs out everywhere by a refresh token, because the token itself has ended.
  await t.test('logout', async () => {
    const phone = world.phone({ user: 'out', phone: '13700137008' })
    const auth = createAuth(phone)
    await auth.login(tap)
    const tablet = createAuth(world.phone({ user: 'out', phone: '13700137008' }))
    await tablet.ready()
    assert.equal((await sessions(auth)).length, 2)
    await auth.logout({ all: true })
    assert.equal((await auth.request({ url: '/orders' }).catch(e => e)).code, 'logged_out')
    const logins = world.count('POST /auth/wx')
    assert.equal((await tablet.request({ url: '/orders' })).statusCode, 200) // a silent login works: the tablet's owner did not log out there
    assert.equal(world.count('POST /auth/wx'), logins + 1)
    assert.ok((await auth.login()).id)
  })

  // The API's own 401, an upload, and pages for everybody must work.
  await t.test('what is not ours', async () => {
    const auth = createAuth(world.phone({ user: 'api', phone: '13700137009' }))
    assert.equal((await auth.request({ url: '/public/goods', login: false })).statusCode, 200)
    await auth.login(tap)
    world.requests.length = 0
    assert.equal((await auth.request({ url: '/pin', method: 'POST' })).statusCode, 401)
    assert.equal(world.count('POST /auth/wx/refresh'), 0)
    const r = await auth.uploadFile({ url: '/photos', file: new Blob(['x'.repeat(1 << 20)]), name: 'photo' })
    assert.ok(JSON.parse(r.data).size > 1 << 20)
  })
})
