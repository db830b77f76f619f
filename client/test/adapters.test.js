// axios and alova over the client.
import test from 'node:test'
import assert from 'node:assert/strict'
import { createAuth } from '../src/index.js'
import { alovaAdapter } from '../src/alova.js'
import { FakeGateway, base, fakePhone, phoneCode } from './fake.js'

const load = name => import(name).catch(() => undefined)
const axios = await load('axios')
const alova = await load('alova')
const leftOut = 'LEFT OUT: needs npm ci in client/'

async function shop() {
  const gateway = new FakeGateway()
  const auth = createAuth({ base, mp: fakePhone(gateway) })
  const { id } = await auth.login(phoneCode('13800138000'))
  for (const token of gateway.tokens.values()) token.ends = 0
  return { gateway, auth, id }
}

// The token has ended: axios' caller notices nothing, and gets axios' own errors.
test('axios', { skip: axios ? false : leftOut }, async () => {
  const { axiosAdapter } = await import('../src/axios.js')
  const { gateway, auth, id } = await shop()
  const http = axios.default.create({ adapter: axiosAdapter(auth), baseURL: base })
  const r = await http.get('/orders', { params: { page: 2, q: 'a b' } })
  assert.deepEqual([r.status, r.data], [200, { user: id }])
  assert.equal(gateway.count('POST /auth/wx/refresh'), 1)
  gateway.api = ({ data }) => ({ statusCode: 201, data: JSON.stringify({ got: data }), header: { 'X-Page': '2' } })
  const made = await http.post('/orders', { book: 1 })
  assert.deepEqual([made.data.got, made.headers.get('x-page')], ['{"book":1}', '2'])
  assert.equal(gateway.last('POST /orders')[2]['Content-Type'], 'application/json')
  gateway.api = () => ({ statusCode: 404, data: { error: 'no such order' } })
  const e = await http.get('/orders/7').catch(e => e)
  assert.ok(axios.default.isAxiosError(e))
  assert.deepEqual([e.response.status, e.response.data], [404, { error: 'no such order' }])
  const stop = new AbortController()
  gateway.fault('/slow', 'hangs')
  const slow = http.get('/slow', { signal: stop.signal, timeout: 1000 }).catch(e => e)
  setImmediate(() => stop.abort())
  assert.ok(axios.default.isCancel(await slow))
  await auth.logout()
  assert.equal((await http.get('/orders').catch(e => e)).code, 'logged_out')
  gateway.api = () => ({ statusCode: 200, data: ['a book'] })
  assert.deepEqual((await http.get('/public/goods', { login: false })).data, ['a book'])
})

test('alova', { skip: alova ? false : leftOut }, async () => {
  const { gateway, auth, id } = await shop()
  const client = alova.createAlova({ requestAdapter: alovaAdapter(auth), baseURL: base, responded: r => r.data, cacheFor: null })
  assert.deepEqual(await client.Get('/orders', { params: { page: 2 } }), { user: id })
  assert.equal(gateway.count('POST /auth/wx/refresh'), 1)
  gateway.api = ({ data }) => ({ statusCode: 200, data })
  assert.deepEqual(await client.Post('/orders', { book: 1 }), { book: 1 })
  await auth.logout()
  assert.equal((await client.Get('/orders').catch(e => e)).code, 'logged_out')
})
