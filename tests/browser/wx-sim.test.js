// On the simulator's control page, a developer makes codes, uses them, and breaks WeChat.
import test from 'node:test'
import assert from 'node:assert/strict'
import { open, options, start } from './browser.js'

const { WX_AUTH_TEST_SIM: wxSim } = process.env
const app = 'wx0123456789abcdef'
const secret = '0123456789abcdef0123456789abcdef'

const zh = {
  language: '中文', title: '获取 code', tap: '点手机号按钮', silent: 'wx.login（静默）', env: '后端配置', calls: '收到的调用',
  faults: { 微信不可用: '502', 响应丢失: 'no answer', '很慢（3 秒）': 'ok', 额度用完: '45009', 'AppSecret 错误': '40125', '系统繁忙（-1）': '-1' }
}
const en = {
  language: 'English', title: 'Get codes', tap: 'Tap the phone button', silent: 'wx.login (silent)', env: 'For your server', calls: 'Calls',
  faults: { 'WeChat is down': '502', 'Answers are lost': 'no answer', 'Slow (3 s)': 'ok', 'Quota used up': '45009', 'Wrong AppSecret': '40125', 'System busy (-1)': '-1' }
}

for (const w of [zh, en]) {
  test('the control page, ' + w.language, options, async t => {
    const url = await start(t, wxSim, ['-listen', '127.0.0.1:0'], /control page: (http\S+)/)
    const { page, click, sees, seesNot, holds, errors } = await open(t, url)
    const exchange = code => fetch(`${url}/sns/jscode2session?appid=${app}&secret=${secret}&js_code=${code}&grant_type=authorization_code`).then(r => r.text()).catch(() => '')
    const codes = () => page.$$eval('#codes code', all => all.map(e => e.innerText))

    if (await page.$eval('#language', b => b.innerText) === w.language) await click(w.language, 'header')
    for (const text of [w.title, w.env, w.calls]) await sees(text)
    await sees(`WX_APPID=${app}\nWX_SECRET=${secret}\nWX_API=${url}`, '#env')

    await click(w.silent)
    await sees('openid', '#codes')
    await seesNot('phoneCode', '#codes')
    await click(w.tap)
    await sees('phoneCode', '#codes')
    const [code, , openid] = await codes()
    assert.ok((await exchange(code)).includes(openid))
    await sees('/sns/jscode2session\tok', '#calls tr:first-child')
    await page.$eval('#phone', e => { e.value = 'a' })
    await click(w.tap)
    await sees('must be digits', '#codes .bad')

    const pressed = name => holds(`only "${name}" is on`, name => [...document.querySelectorAll('#faults button')].every(b => (b.getAttribute('aria-pressed') === 'true') === (b.innerText === name)), name)
    let n = 1
    for (const [name, outcome] of Object.entries(w.faults)) {
      await click(name, '#faults')
      await pressed(name)
      await exchange('0')
      await holds('the call is listed', n => document.querySelectorAll('#calls tr').length === n, ++n)
      // A delayed call gets the same answer as without the delay: there is no such code.
      await sees('/sns/jscode2session\t' + (outcome === 'ok' ? '40029' : outcome), '#calls tr:first-child')
    }
    await click(Object.keys(w.faults).at(-1), '#faults')
    await pressed('')
    await exchange('0')
    await sees('40029', '#calls tr:first-child')
    assert.deepEqual(errors, [])
  })
}
