// Connects the parts of the page: the events of the demo's server go to the list of requests,
// the facts and the story.
import { byId, isChinese, make, say, speak, t } from './words.js'
import * as phone from './phone.js'
import * as facts from './facts.js'
import * as log from './log.js'
import { login, switches, tell } from './stories.js'

let events = []
let visitor
let told = tell(login)
let active // the switch of the story that is shown
const on = new Set() // the switches of what is broken

// The switches

const buttons = Object.entries(switches).map(([name, s]) => {
  const button = make('button', 'switch', make('strong'), make('small'))
  button.id = 'switch-' + name
  if (s.toggle) button.setAttribute('aria-pressed', 'false')
  button.onclick = () => flip(name, s, button)
  return { name, s, button }
})
byId('switches').append(...buttons.map(b => b.button))

async function flip(name, s, button) {
  if (button.getAttribute('aria-disabled') === 'true') return
  const turnOn = s.toggle ? !on.has(name) : true
  if (turnOn) {
    told = tell(s, phone.loggedIn())
    active = name
  }
  button.setAttribute('aria-busy', 'true')
  try {
    await phone.post('/demo/switch', { name, on: turnOn, phone: (phone.stored().user || {}).purePhoneNumber })
    if (name === 'steal') phone.age(visitor.body.appid)
  } finally {
    button.removeAttribute('aria-busy')
  }
}

function renderSwitches() {
  for (const { name, s, button } of buttons) {
    const off = Boolean(s.needsLogin) && !phone.loggedIn()
    button.firstChild.textContent = say(s.name)
    button.lastChild.textContent = off ? t('needsLogin') : say(s.line)
    button.setAttribute('aria-disabled', String(off))
    if (s.toggle) button.setAttribute('aria-pressed', String(on.has(name)))
    button.classList.toggle('told', active === name)
  }
}

// The story

function renderStory() {
  byId('story-title').textContent = say(told.story.title)
  byId('story-what').textContent = say(told.story.what)
  byId('story-close').hidden = !active
  const items = told.steps.map((step, i) => {
    const state = i < told.done ? 'done' : i === told.done ? 'now' : 'later'
    const li = make('li', state + (step.do ? ' todo' : ''), say([step.zh, step.en]))
    if (state === 'now') li.setAttribute('aria-current', 'step')
    return li
  })
  // Only changed steps are replaced, so that a screen reader reads only those.
  const list = byId('steps')
  items.forEach((li, i) => {
    const old = list.children[i]
    if (!old) list.append(li)
    else if (old.outerHTML !== li.outerHTML) old.replaceWith(li)
  })
  const now = told.steps[told.done]
  byId('hint').textContent = now && now.do ? say([now.zh, now.en]) : ''
  while (list.children.length > items.length) list.lastChild.remove()
}
byId('story-close').onclick = () => {
  active = undefined
  told = tell(login)
  for (const e of events) told.next(e)
  renderStory()
  renderSwitches()
}

// The events

function take(e) {
  events.push(e)
  if (e.kind === 'start') return arrive(e)
  if (e.kind === 'switch') {
    if (e.on) on.add(e.name)
    else on.delete(e.name)
  }
  if (e.kind === 'api') facts.atAPI(e)
  log.add(e)
  told.next(e)
  if (e.kind === 'api' || e.kind === 'answer') facts.render()
  if (e.kind === 'switch') renderSwitches()
  renderStory()
}

function arrive(e) {
  events = [e]
  visitor = e
  on.clear()
  active = undefined
  told = tell(login)
  log.clear()
  facts.clear()
  phone.install({ ...e, onChange: () => { facts.render(); renderSwitches() } })
  render()
}

const source = new EventSource('/demo/events')
source.onmessage = m => take(JSON.parse(m.data))
source.onopen = () => { document.body.classList.remove('off') }
source.onerror = () => { document.body.classList.add('off') }

byId('restart').onclick = () => phone.post('/demo/restart')

// Language and theme

function render() {
  renderSwitches()
  renderStory()
  facts.render()
  phone.speak()
  byId('language').textContent = isChinese() ? 'English' : '中文'
  byId('language').lang = isChinese() ? 'en' : 'zh-CN'
  byId('theme').textContent = t('theme' + theme)
}

byId('language').onclick = () => {
  speak(!isChinese())
  const before = events
  log.clear()
  for (const e of before) if (e.kind !== 'start') log.add(e)
  render()
}

const themes = ['Auto', 'Dark', 'Light']
let theme = themes.includes(localStorage.getItem('theme')) ? localStorage.getItem('theme') : 'Auto'
function wear(next) {
  theme = next
  localStorage.setItem('theme', theme)
  document.documentElement.dataset.theme = theme
}
byId('theme').onclick = () => {
  wear(themes[(themes.indexOf(theme) + 1) % themes.length])
  render()
}

wear(theme)
speak(isChinese())
render()
