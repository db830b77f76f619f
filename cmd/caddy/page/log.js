// The list of requests, newest first. Each has the events that it caused.
import { byId, make, t } from './words.js'

const kept = 60
let rows = new Map()

const clock = at => {
  const d = new Date(at)
  return d.toLocaleTimeString('en-GB') + '.' + String(d.getMilliseconds()).padStart(3, '0')
}
const took = ms => (ms === undefined ? '' : ms < 10 ? ms.toFixed(1) + ' ms' : Math.round(ms) + ' ms')

const chip = (text, style) => make('span', 'chip ' + style, text)
const line = (label, text, style, ...more) => make('div', 'hop ' + style, make('span', 'arrow', label), make('code', '', text), ...more)

function json(label, body) {
  return body && make('div', 'body', make('small', '', label), make('pre', '', JSON.stringify(body, null, 1).replace(/\n\s*/g, ' ')))
}

function row(e) {
  const li = make('li', 'request by-' + e.who)
  const state = chip(t('waiting'), 'open')
  const bodies = make('details')
  bodies.append(make('summary', '', make('time', '', clock(e.at)), chip(t('by_' + e.who), 'who'), make('code', 'call', make('b', '', e.method), ' ' + e.path), make('span', 'end', state)))
  const sent = json(t('sent'), e.body)
  if (sent) bodies.append(sent)
  const hops = make('div', 'hops')
  li.append(bodies, hops)
  const r = { li, state, bodies, hops, reached: false }
  rows.set(e.of, r)
  return li
}

// add shows one event.
export function add(e) {
  byId('log-empty').hidden = true
  const r = rows.get(e.of)
  if (e.kind === 'request') byId('log').prepend(row(e))
  else if (e.kind === 'wx') byId('log').prepend(make('li', 'request by-phone', make('div', 'single', make('time', '', clock(e.at)), chip(t('by_phone'), 'who'), make('code', 'call', make('b', '', e.name)), make('span', 'end soft', t('onPhone')))))
  else if (e.kind === 'wechat') {
    const good = e.outcome === 'ok'
    const hop = line(t('toWeChat'), e.path, 'to-wechat', chip(e.outcome || t('noAnswer'), good ? 'good' : 'bad'), make('small', '', took(e.ms)))
    if (r) r.hops.append(hop)
    else byId('log').prepend(make('li', 'request', hop))
  } else if (e.kind === 'api' && r) {
    r.reached = true
    const id = (e.headers || {})['X-Wx-User-Id']
    r.hops.append(line(t('toAPI'), e.path, 'to-api', id && make('small', '', 'X-WX-USER-ID ' + id.slice(0, 8) + '…')))
  } else if (e.kind === 'answer' && r) {
    const good = e.status < 400
    r.state.replaceWith(chip([e.status, e.outcome].filter(Boolean).join(' '), good ? 'good' : 'bad'), e.lost ? chip(t('lost'), 'bad') : '', make('small', '', took(e.ms)))
    const body = json(t('answered'), e.body)
    if (body) r.bodies.append(body)
    if (e.status === 401 && !e.path.startsWith('/auth/wx') && !r.reached) r.hops.append(line('✕', t('refusedHere'), 'stopped'))
  }
  while (byId('log').children.length > kept) byId('log').lastElementChild.remove()
}

export function clear() {
  rows = new Map()
  byId('log').replaceChildren()
  byId('log-empty').hidden = false
}
