// On the demo's page, a person logs in on the phone, breaks everything once, and sees how the
// gateway reacts.
import test from 'node:test'
import assert from 'node:assert/strict'
import { open, options, start } from './browser.js'

const { WX_AUTH_TEST_CADDY: caddy, WX_AUTH_TEST_CADDYFILE: caddyfile } = process.env
const demo = t => start(t, caddy, ['wx-demo', '--config', caddyfile], /In a browser: +(http\S+)/)

const zh = {
  language: '中文', browse: '浏览商品不需要登录', needsLogin: '先在手机上登录', order: '下单 青瓷杯', ordered: '已下单', why: '请使用手机号登录', phone: '手机号快捷登录', allow: '允许',
  isNew: '新用户', member: '已登录', known: '老用户', logout: '退出登录', login: '登录', retry: '再试一次', restart: '换一个新用户', cup: '青瓷杯',
  first: '后端从请求头里知道是谁', stopped: '网关拦下，没有到后端', empty: '还没有请求', toWeChat: '网关 → 微信',
  away: '微信不可用', awayText: '微信服务暂时不可用', awayEnd: '不用重启',
  lost: '响应丢失', lostChip: '响应丢失', lostEnd: '没有再问微信：不会重复付费',
  steal: '盗用 refresh token', thief: '盗用者', stealEnd: '用户没有感觉',
  elsewhere: '在别处退出', elsewhereEnd: '静默登录成功，订单继续',
  recycle: '号码换了主人', owner: '新机主', recycleEnd: '成为另一个用户', changed: '登录的账号已切换'
}
const en = {
  language: 'English', browse: 'Browsing needs no login', needsLogin: 'Log in on the phone first', order: 'Order Celadon cup', ordered: 'Ordered', why: 'Please log in with your phone number', phone: 'Log in with your number', allow: 'Allow',
  isNew: 'new', member: 'Logged in', known: 'known', logout: 'Log out', login: 'Log in', retry: 'Try again', restart: 'A new visitor', cup: 'Celadon cup',
  first: 'reads from its headers who it is', stopped: 'the API was not reached', empty: 'No request yet', toWeChat: 'gateway → WeChat',
  away: 'WeChat is away', awayText: 'WeChat is not available', awayEnd: 'Nothing had to be restarted',
  lost: 'An answer is lost', lostChip: 'answer lost', lostEnd: 'nothing is paid twice',
  steal: 'Steal the refresh token', thief: 'thief', stealEnd: 'Its user noticed nothing',
  elsewhere: 'Log out elsewhere', elsewhereEnd: 'a silent login, and the order goes on',
  recycle: 'The number is recycled', owner: 'new owner', recycleEnd: 'That is another user', changed: 'Another account has logged in'
}

for (const w of [zh, en]) {
  test('the demo, ' + w.language, options, async t => {
    const { page, click, sees, seesNot, holds, errors } = await open(t, await demo(t))
    const ended = async last => {
      await sees(last, '#steps .done')
      await holds('every step is done', () => !document.querySelector('#steps li:not(.done)'))
    }
    const order = () => click(w.order, '#goods')
    const choose = async number => {
      await sees(w.why, '#problem')
      await click(w.phone, '.phone')
      await page.$eval(`#sheet input[value="${number}"]`, e => e.click())
      await click(w.allow, '#sheet')
    }
    const flip = async name => {
      await click(name, '#switches')
      await holds('the switch has done its work', () => !document.querySelector('#switches [aria-busy]'))
    }
    const user = () => page.$eval('#user code', e => e.innerText)

    await holds('a button for the language', () => document.querySelector('#language').innerText)
    if (await page.$eval('#language', b => b.innerText) === w.language) await click(w.language, '.tools')
    await sees(w.browse)
    await sees(w.cup, '#goods')
    await sees(w.needsLogin, '#switch-steal')
    await sees('GET /public/goods', '#log')

    await order()
    await choose('19900000001')
    await sees(w.ordered, '#toast')
    await sees('+8619900000001', '#account')
    await ended(w.first)
    await sees(w.isNew, '#user')
    for (const call of ['/sns/jscode2session', '/wxa/business/getuserphonenumber']) await sees(`${w.toWeChat}\n${call}`, '#log .to-wechat')
    await sees('403 phone_required', '#log')
    await sees('X-WX-PHONE\n+8619900000001', '#headers')
    await sees('X-WX-USER-ID\n' + await user(), '#headers')
    await sees('sub\n' + await user(), '#token')
    const first = await user()

    await flip(w.away)
    await order()
    await sees(w.ordered, '#toast')
    await click(w.logout, '#account')
    await order()
    await click(w.login, '#view-login')
    await sees(w.awayText, '#problem')
    await sees('502', '#log .to-wechat')
    await flip(w.away)
    await click(w.retry, '#view-login')
    await ended(w.awayEnd)
    await sees(w.known, '#user')
    await sees(w.member, '#account')

    await flip(w.lost)
    await holds('the switch is on', () => document.querySelector('#switch-lost[aria-pressed=true]'))
    await click(w.logout, '#account')
    await order()
    await click(w.login, '#view-login')
    await ended(w.lostEnd)
    await sees(w.lostChip, '#log .bad')
    await holds('the switch is off again', () => document.querySelector('#switch-lost[aria-pressed=false]'))
    await sees(w.member, '#account')

    await flip(w.steal)
    await sees(w.thief, '#log')
    await holds('the order is next', () => document.querySelector('#steps .now.todo'))
    await order()
    await ended(w.stealEnd)
    await sees('401 reuse_detected', '#log .by-phone')
    await sees('401 token_revoked', '#log .by-thief')
    await sees('401 session_ended', '#log .by-thief')

    await flip(w.elsewhere)
    await holds('the order is next', () => document.querySelector('#steps .now.todo'))
    await order()
    await ended(w.elsewhereEnd)
    await sees('POST /auth/wx/logout', '#log .by-other')
    await sees(w.stopped, '#log .by-phone')
    await sees(w.ordered, '#toast')
    assert.equal(await user(), first)

    await flip(w.recycle)
    await sees(w.owner, '#log')
    await holds('the order is next', () => document.querySelector('#steps .now.todo'))
    await order()
    await choose('19900000002')
    await ended(w.recycleEnd)
    await sees('+8619900000002', '#account')
    await sees(w.isNew, '#user')
    await sees(w.changed, '#toast') // the client does not repeat the order as another user
    await order()
    await sees('X-WX-PHONE\n+8619900000002', '#headers')
    assert.notEqual(await user(), first)

    // A reload of the page restarts the mini program: it is still logged in, and the list is
    // back.
    await page.reload()
    await sees('+8619900000002', '#account')
    await sees(w.owner, '#log')

    await click(w.restart, '.tools')
    await sees(w.browse, '#account')
    await seesNot(w.owner, '#log')
    await sees(w.needsLogin, '#switch-recycle')
    assert.deepEqual(errors, [])
  })
}

// A person uses the page without a mouse and with dark colours. A page from another origin
// tries to use the demo.
test('the demo by the keyboard', options, async t => {
  const url = await demo(t)
  const { page, sees, holds, errors } = await open(t, url)
  const key = name => page.keyboard.press(name)
  const focus = id => holds(id + ' has the focus', id => document.activeElement.id === id, id)

  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }])
  const dark = await back()
  await page.focus('#theme')
  await key('Enter')
  await key('Enter')
  assert.notEqual(await back(), dark)

  await sees('¥45', '#goods')
  await page.focus('.order')
  await key('Enter')
  await holds('the login page', () => document.querySelector('#login-phone').checkVisibility())
  await page.focus('#login-phone')
  await key('Enter')
  await holds('the first number has the focus', () => document.activeElement.name === 'number')
  await key('Escape')
  await focus('login-phone')
  await key('Enter')
  await holds('the first number has the focus', () => document.activeElement.name === 'number')
  await key('ArrowDown')
  await key('Enter')
  await sees('+8619900000002', '#account')
  await page.focus('#log')
  await key('Tab')
  await holds('a request has the focus', () => document.activeElement.tagName === 'SUMMARY')
  await key('Enter')
  await sees('{', '#log details[open] pre')
  assert.deepEqual(errors, [])

  for (const headers of [{ Origin: 'https://evil.example' }, { 'Sec-Fetch-Site': 'cross-site', Origin: 'null' }]) {
    assert.equal((await fetch(url + '/demo/codes', { method: 'POST', headers, body: '{}' })).status, 403)
  }
})
