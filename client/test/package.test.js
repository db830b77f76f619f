// These tests check the published package: its size, its forms, its types, its development
// mode.
import test from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { codes, meaning } from '../src/error.js'
import { simulated } from '../src/dev.js'
import { createAuth } from '../src/index.js'
import { FakeGateway, base, fakePhone } from './fake.js'

const here = path => fileURLToPath(new URL('../' + path, import.meta.url))
const require = createRequire(import.meta.url)
const installed = () => { try { return require.resolve('esbuild') } catch (e) { return undefined } }
const options = { skip: installed() ? false : 'LEFT OUT: needs npm ci in client/' }

// Each kilobyte counts against a mini program's 2 MB. The READMEs say the size.
test('the size', () => {
  const size = gzipSync(readFileSync(here('miniprogram_dist/index.js')), { level: 9 }).length
  assert.ok(size <= 5 * 1024, size + ' bytes')
  for (const file of ['README.md', 'README.zh-CN.md']) {
    assert.match(readFileSync(here(file), 'utf8'), new RegExp((size / 1024).toFixed(1).replace('.', '\\.') + ' KB'), file)
  }
})

// DevTools copies miniprogram_dist, which must be up to date with the sources and work like
// them.
test('the form for DevTools', options, () => {
  execFileSync(process.execPath, [here('build.js'), '--check'])
})
test('the CommonJS form logs in', async () => {
  const dist = require('../miniprogram_dist/index.js')
  const auth = dist.createAuth({ base, mp: fakePhone(new FakeGateway()) })
  assert.ok((await auth.login('13800138000/1')).id)
  const e = await auth.login({ detail: { errno: 104 } }).catch(e => e)
  assert.ok(e instanceof dist.WxAuthError && e instanceof Error)
  assert.equal(typeof require('../miniprogram_dist/dev.js').simulated, 'function')
})

// A project in TypeScript compiles against the types.
test('the types', options, () => {
  try {
    execFileSync(process.execPath, [require.resolve('typescript/package.json').replace('package.json', 'bin/tsc'), '-p', here('test')], { encoding: 'utf8' })
  } catch (e) {
    assert.fail(e.stdout || e)
  }
})

// Every code has a text in both languages.
test('a text for each code', () => {
  const types = readFileSync(here('types/index.d.ts'), 'utf8')
  for (const code of codes) {
    assert.match(meaning(code).zh, /^[\u4e00-\u9fff，]+$/, code)
    assert.match(meaning(code).en, /^[A-Z][\w ,.']+$/, code)
  }
  const [, union] = /export type Code =([^]*?)\n\n/.exec(types)
  for (const [, code] of union.matchAll(/'(\w+)'/g)) assert.ok(codes.includes(code), code + ' has no text')
})

// A build for the store imports the development mode by accident. It must not start.
test('no development mode in a release', () => {
  const mp = version => ({ getAccountInfoSync: () => ({ miniProgram: { appId: 'x', envVersion: version } }) })
  assert.ok(simulated({ mp: mp('develop') }))
  for (const version of ['release', 'trial', undefined]) assert.throws(() => simulated({ mp: mp(version) }), /development only/)
  for (const url of ['https://sim.example.com', 'http://8.8.8.8:8300', 'http://localhost.example.com', 'ftp://localhost', 'http://10.evil.com', '']) {
    assert.throws(() => simulated({ mp: mp('develop'), url }), /private network/, url)
  }
  for (const url of ['http://localhost:8300', 'http://192.168.1.20:8300', 'http://[::1]:8300', 'http://wx-sim:8300', 'http://172.20.0.2']) {
    assert.ok(simulated({ mp: mp('develop'), url }), url)
  }
  globalThis.location = { hostname: 'shop.example.com' }
  try {
    assert.throws(() => simulated({ mp: {} }), /development only/)
    globalThis.location.hostname = 'localhost'
    assert.ok(simulated({ mp: {} }))
  } finally {
    delete globalThis.location
  }
})

// A typo must be found at the start, not at the first login.
test('options that cannot work', () => {
  for (const options of [{}, { base }, { base: 'api.example.com', mp: {} }, { base, mp: {} }]) assert.throws(() => createAuth(options), TypeError)
})
