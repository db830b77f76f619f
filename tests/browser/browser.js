// A browser as a person uses it: tests see the text of the page, and click buttons by the name
// that a screen reader would say.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import puppeteer from 'puppeteer-core'

const found = ['chromium', 'chromium-browser', 'google-chrome'].flatMap(name => process.env.PATH.split(delimiter).map(dir => join(dir, name)))
const chromium = process.env.WX_AUTH_TEST_CHROMIUM || found.find(existsSync)
const timeout = 60000

// options are the options of a test that needs Chromium.
export const options = {
  timeout: 400000,
  skip: chromium || process.env.WX_AUTH_TEST_REQUIRE_CHROMIUM ? false : 'LEFT OUT: pages, which need a Chromium (WX_AUTH_TEST_REQUIRE_CHROMIUM=1 makes this a failure)'
}

// start runs a program until the end of the test, and returns the match of the pattern in its
// output.
export async function start(t, program, args, pattern, env) {
  const home = mkdtempSync(join(tmpdir(), 'wx-auth-page-'))
  const child = spawn(program, args, { env: { PATH: process.env.PATH, HOME: home, XDG_DATA_HOME: home, XDG_CONFIG_HOME: home, ...env } })
  t.after(() => { child.kill('SIGKILL'); rmSync(home, { recursive: true, force: true }) })
  let output = ''
  return new Promise((done, failed) => {
    const read = data => {
      output += data
      const match = pattern.exec(output)
      if (match) done(match[1])
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.on('exit', code => failed(new Error(`ended with ${code}:\n${output}`)))
  })
}

// open shows a page. At the end of the test, the page must have had no error and sent no
// request to another host.
export async function open(t, url) {
  const browser = await puppeteer.launch({ executablePath: chromium, args: ['--no-sandbox'] })
  t.after(() => browser.close())
  const page = await browser.newPage()
  await page.setViewport({ width: 1280, height: 800 })
  const errors = []
  page.on('pageerror', e => errors.push(e.stack || String(e)))
  page.on('request', r => { if (!r.url().startsWith(url)) errors.push('a request to ' + r.url()) })
  page.on('console', m => { if (/Content.Security.Policy/.test(m.text())) errors.push(m.text()) })
  const answer = await page.goto(url)
  assert.match(answer.headers()['content-security-policy'], /^default-src 'none';/)

  const text = () => page.evaluate(() => document.body.innerText)
  const holds = (what, question, ...args) => page.waitForFunction(question, { timeout }, ...args)
    .catch(async e => assert.fail(`${what}: ${e.message}\n${errors.join('\n')}\n${await text()}`))
  return {
    page, text, holds, errors,
    sees: (what, selector = 'body') => holds(`"${what}" in ${selector}`, (what, selector) => [...document.querySelectorAll(selector)].some(e => e.checkVisibility() && e.innerText.includes(what)), what, selector),
    seesNot: (what, selector = 'body') => holds(`no "${what}" in ${selector}`, (what, selector) => [...document.querySelectorAll(selector)].every(e => !e.checkVisibility() || !e.innerText.includes(what)), what, selector),
    // click clicks a button by its name, within an element of the page.
    click: async (name, selector = 'body') => {
      const button = await holds(`the button "${name}" in ${selector}`, (name, selector) => [...document.querySelectorAll(selector + ' button')].find(b =>
        b.checkVisibility() && b.ariaBusy !== 'true' && b.getAttribute('aria-disabled') !== 'true' && (b.getAttribute('aria-label') || b.innerText.split('\n')[0]) === name), name, selector)
      await button.evaluate(b => b.click())
    }
  }
}
