// The login page of the plain mini program, in miniprogram-simulate, with the client's
// fake phone and gateway.
import test from 'node:test'
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { JSDOM } from 'jsdom'
import { FakeGateway, fakePhone, phoneCode, problem } from '../../../client/test/fake.js'

const require = createRequire(import.meta.url)
const example = fileURLToPath(new URL('../../miniprogram', import.meta.url))

// What miniprogram-simulate finds in a browser.
const { window } = new JSDOM('<!doctype html><body></body>', { pretendToBeVisual: true })
for (const name of ['window', 'document', 'Element', 'Event', 'CustomEvent', 'HTMLElement', 'Node', 'MutationObserver', 'requestAnimationFrame']) {
  globalThis[name] = name === 'window' ? window : window[name]
}
const simulate = require('miniprogram-simulate')

// A fresh start of the mini program: its modules are loaded anew, the phone's storage stays.
async function open(mp, page) {
  for (const file of Object.keys(require.cache)) if (file.startsWith(example)) delete require.cache[file]
  const shown = []
  globalThis.wx = Object.assign(mp, {
    getAccountInfoSync: () => ({ miniProgram: { appId: 'wx0123456789abcdef', envVersion: 'release' } }),
    navigateBack: () => shown.push('back'), showToast: ({ title }) => shown.push(title)
  })
  const component = simulate.render(simulate.load(`${example}/pages/${page}/${page}`, { compiler: 'simulate' }))
  component.attach(document.createElement('parent'))
  component.instance.onLoad()
  const settled = async done => { while (!done()) await new Promise(done => setTimeout(done, 5)) }
  const { auth } = require(example + '/auth.js')
  return { component, shown, auth, data: () => component.data, settled, idle: () => settled(() => !component.data.busy) }
}

// A newcomer: silently it does not go; they refuse, take a number that may not, then another.
test('a login with the second number', async () => {
  const gateway = new FakeGateway()
  const page = await open(fakePhone(gateway), 'login')
  await page.idle()
  assert.equal(page.data().need, 'phone')
  assert.match(page.component.dom.textContent, /同意并用手机号登录/)
  page.component.instance.onPhone({ detail: { errMsg: 'getPhoneNumber:fail user deny' } })
  await page.idle()
  assert.match(page.component.dom.textContent, /需要授权手机号才能登录/)
  gateway.fault('/auth/wx', () => problem(403, 'registration_closed'))
  page.component.instance.onPhone({ detail: { code: phoneCode('13900139000') } })
  await page.idle()
  assert.match(page.component.dom.textContent, /可换一个手机号/)
  assert.equal(page.data().need, 'phone')
  page.component.instance.onPhone({ detail: { code: phoneCode('13800138000') } })
  await page.idle()
  assert.deepEqual(page.shown, ['back'])
  assert.equal(page.auth.user.phoneNumber, '+8613800138000')
})

// Somebody known comes back: the page closes before it asks anything.
test('a silent login closes the page', async () => {
  const gateway = new FakeGateway()
  const mp = fakePhone(gateway)
  const first = await open(mp, 'login')
  await first.idle()
  first.component.instance.onPhone({ detail: { code: phoneCode('13800138000') } })
  await first.idle()
  const again = await open(fakePhone(gateway), 'login')
  await again.idle()
  assert.deepEqual(again.shown, ['back'])
  // After a logout it waits for a tap, also after a restart.
  await again.auth.logout()
  const out = await open(fakePhone(gateway, { storage: wx.storage }), 'login')
  await out.idle()
  assert.deepEqual([out.data().need, out.shown], ['login', []])
  out.component.instance.onLogin()
  await out.idle()
  assert.deepEqual(out.shown, ['back'])
})

// A disabled user reads why, and finds no button. A reviewer finds theirs.
test('final refusals have no button', async () => {
  const gateway = new FakeGateway()
  gateway.fault('/auth/wx', () => problem(403, 'user_disabled'))
  const page = await open(fakePhone(gateway), 'login')
  await page.idle()
  assert.equal(page.component.dom.querySelectorAll('wx-button').length, 0)
  assert.match(page.component.dom.textContent, /账号已停用/)
  page.component.instance.onReview({ detail: { value: 'reviewer' } })
  await page.idle()
  assert.deepEqual(page.shown, ['back'])
})

// The shop's first page shows its goods to everybody; an order opens the login page.
test('look around without a login', async () => {
  const gateway = new FakeGateway()
  gateway.faults.push({ path: '/goods', what: () => ({ statusCode: 200, data: [{ id: 1, name: '龙井', price: 68 }] }) })
  const mp = fakePhone(gateway)
  const page = await open(mp, 'home')
  await page.settled(() => page.data().goods.length)
  assert.match(page.component.dom.textContent, /龙井/)
  assert.deepEqual([mp.opened, mp.logins], [[], 0])
  page.component.instance.onOrder({ currentTarget: { dataset: { id: 1 } } })
  await page.settled(() => mp.opened.length)
  assert.deepEqual(mp.opened, ['/pages/login/login'])
})
