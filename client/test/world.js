// The built gateway with the simulator in WeChat's place, an API behind it, and a network in
// front of it that tests can break. The environment has the paths of the programs.
import { spawn } from 'node:child_process'
import { createServer, request as httpRequest } from 'node:http'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { simulated } from '../src/dev.js'
import { fetchMP } from '../src/fetch.js'

export const programs = { caddy: process.env.WX_AUTH_TEST_CADDY, sim: process.env.WX_AUTH_TEST_SIM }
export const leftOut = programs.caddy && programs.sim
  ? false
  : 'LEFT OUT: set WX_AUTH_TEST_CADDY and WX_AUTH_TEST_SIM to the built cmd/caddy and cmd/wx-sim, or run: go test -run Client ./tests/examples'

const appid = 'wx0123456789abcdef'
const secret = '0123456789abcdef0123456789abcdef'
export const serviceKey = 'fedcba9876543210fedcba9876543210'
const listening = server => new Promise(done => server.listen(0, '127.0.0.1', () => done('http://127.0.0.1:' + server.address().port)))

// until asks again until the answer is yes. Only the test's own time limit ends it.
export async function until(question) {
  while (!await question()) await new Promise(done => setTimeout(done, 20))
}

export async function startWorld(t, options = '') {
  const dir = mkdtempSync(join(tmpdir(), 'wx-auth-client-'))
  const log = []
  const start = (program, args, env) => {
    const child = spawn(program, args, { env: { PATH: process.env.PATH, HOME: dir, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const out of [child.stdout, child.stderr]) out.setEncoding('utf8').on('data', text => log.push(text))
    return child
  }
  const children = []
  const servers = []
  t.after(async () => {
    for (const child of children) child.kill('SIGKILL')
    for (const server of servers) { server.closeAllConnections(); server.close() }
    await Promise.all(children.map(c => c.exitCode ?? c.signalCode ?? new Promise(done => c.on('exit', done))))
    rmSync(dir, { recursive: true, force: true })
  })

  const sim = start(programs.sim, ['--listen', '127.0.0.1:0'])
  children.push(sim)
  let wechat
  await until(() => (wechat = (/http:\/\/127\.0\.0\.1:\d+/.exec(log.join('')) || [])[0]))

  // The API answers with the identity that it got from the gateway.
  const world = { wechat, log, seen: [], requests: [], faults: [], dir }
  const api = createServer((req, res) => {
    world.seen.push(req.method + ' ' + req.url + ' ' + (req.headers['x-wx-user-id'] || '-'))
    let size = 0
    req.on('data', piece => { size += piece.length })
    req.on('end', () => {
      if (req.url === '/pin') { res.writeHead(401, { 'Content-Type': 'application/json' }); res.end('{"code":"pin_required"}'); return }
      res.setHeader('Content-Type', 'application/json')
      res.end(JSON.stringify({ user: req.headers['x-wx-user-id'], phone: req.headers['x-wx-phone'], size }))
    })
  })
  servers.push(api)
  const upstream = await listening(api)

  const socket = join(dir, 'caddy.sock')
  const config = join(dir, 'Caddyfile')
  writeFileSync(config, `{
	admin off
	auto_https off
}
http://gateway, http://127.0.0.1 {
	bind unix/${socket}
	wx_auth {env.WX_APPID} {env.WX_SECRET} {
		public /public/*
		service_key ${serviceKey}
		wechat {
			api ${wechat}
		}
		${options}
	}
	reverse_proxy ${upstream}
}
`)
  const caddy = start(programs.caddy, ['run', '--config', config, '--adapter', 'caddyfile'], {
    WX_APPID: appid, WX_SECRET: secret, XDG_DATA_HOME: join(dir, 'data'), XDG_CONFIG_HOME: join(dir, 'config')
  })
  children.push(caddy)

  const forward = (req, body, done) => {
    const out = httpRequest({ socketPath: socket, path: req.url, method: req.method, headers: req.headers }, done)
    out.end(body)
    return out
  }

  // This is the network. Each request may meet a fault: 'lost' (carried out, no answer),
  // 'down' (not carried out), or a function that answers in the gateway's place.
  const network = createServer((req, res) => {
    const pieces = []
    req.on('data', piece => pieces.push(piece))
    req.on('end', () => {
      const path = req.url.replace(/\?.*/, '')
      world.requests.push(req.method + ' ' + path)
      const i = world.faults.findIndex(f => f.path === path)
      const fault = i < 0 ? undefined : world.faults.splice(i, 1)[0].what
      if (fault === 'down') { req.socket.destroy(); return }
      if (typeof fault === 'function') { fault(res); return }
      forward(req, Buffer.concat(pieces), answer => {
        if (fault === 'lost') { answer.resume(); answer.on('end', () => req.socket.destroy()); return }
        res.writeHead(answer.statusCode, answer.rawHeaders)
        answer.pipe(res)
      }).on('error', () => req.socket.destroy())
    })
  })
  servers.push(network)
  world.base = await listening(network)
  world.fault = (path, what, times = 1) => { for (let i = 0; i < times; i++) world.faults.push({ path, what }) }
  world.count = what => world.requests.filter(r => r === what).length
  world.control = async (method, path, body) => {
    const r = await fetch(wechat + '/_control/' + path, { method, body: body && JSON.stringify(body) })
    if (!r.ok) throw new Error(await r.text())
    return r.status === 204 ? undefined : r.json()
  }
  // phone returns a person's phone with the options of createAuth. Its storage outlives a
  // restart.
  world.phone = ({ user = 'li-lei', phone = '13800138000', memory = new Map() } = {}) => {
    const mp = fetchMP({ storage: { getItem: key => memory.get(key), setItem: (key, value) => memory.set(key, value) } })
    return { base: world.base, mp, memory, simulator: simulated({ mp, url: wechat, user, phone }) }
  }
  await until(async () => (await fetch(world.base + '/auth/wx/health').catch(() => ({}))).status === 200 || caddy.exitCode !== null)
  if (caddy.exitCode !== null) throw new Error('the gateway ended:\n' + log.join(''))
  world.requests.length = 0
  return world
}
