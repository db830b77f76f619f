// The page's texts in both languages, and the language in use.

const words = {
  skip: ['跳到右侧的过程', 'Skip to what happens'],
  tagline: ['三行 Caddyfile，给任何 HTTP 接口加上微信手机号登录', 'WeChat phone login in front of any HTTP API, in three lines of Caddyfile'],
  restart: ['换一个新用户', 'A new visitor'],
  themeAuto: ['外观：跟随系统', 'Theme: system'],
  themeDark: ['外观：深色', 'Theme: dark'],
  themeLight: ['外观：浅色', 'Theme: light'],
  phone: ['手机上的小程序', 'The mini program on the phone'],
  shop: ['茶铺', 'Tea shop'],
  slogan: ['随便看看，下单时才需要登录', 'Look around. Only an order needs a login'],
  guest: ['未登录', 'Not logged in'],
  guestMore: ['浏览商品不需要登录', 'Browsing needs no login'],
  member: ['已登录', 'Logged in'],
  order: ['下单', 'Order'],
  ordered: ['已下单', 'Ordered'],
  logout: ['退出登录', 'Log out'],
  loggedOut: ['已退出登录', 'Logged out'],
  loginTitle: ['登录后下单', 'Log in to order'],
  loginPhone: ['手机号快捷登录', 'Log in with your number'],
  loginPlain: ['登录', 'Log in'],
  loginRetry: ['再试一次', 'Try again'],
  back: ['先逛逛', 'Not now'],
  sheetTitle: ['申请获取并验证你的手机号', 'Wants to get and verify your phone number'],
  numbers: ['手机号', 'Phone numbers'],
  bound: ['微信绑定号码', 'Number of this WeChat account'],
  another: ['另一个号码', 'Another number'],
  refuse: ['不允许', 'Refuse'],
  allow: ['允许', 'Allow'],
  below: ['手机里运行的就是 npm 包 caddy-wx-auth；微信由本机的模拟器代替，不会发出任何外部请求。', 'The phone runs the npm package caddy-wx-auth. A simulator on this machine plays WeChat; nothing is sent anywhere else.'],
  breaks: ['制造一点麻烦', 'Break things'],
  needsLogin: ['先在手机上登录', 'Log in on the phone first'],
  storyClose: ['收起', 'Close'],
  requests: ['正在发生什么', 'What happens'],
  requestsEmpty: ['还没有请求。', 'No request yet.'],
  headers: ['后端收到的请求头', 'Headers at your API'],
  headersEmpty: ['后端还没有收到需要登录的请求。', 'No request with a user has reached the API yet.'],
  headersNote: ['网关先删掉客户端自带的同名请求头，再写入这些值，所以无法伪造。', 'The gateway first removes whatever a client sends under these names, so nobody can forge them.'],
  user: ['用户', 'The user'],
  userEmpty: ['还没有用户登录。', 'Nobody is logged in.'],
  isNew: ['新用户', 'new'],
  known: ['老用户', 'known'],
  token: ['拆开 token 看看', 'The token, taken apart'],
  tokenEmpty: ['登录后这里会出现 JWT。', 'The JWT appears here after a login.'],
  header: ['头部', 'header'],
  payload: ['内容', 'payload'],
  more: ['其余字段和头部', 'The rest, and the header'],
  sub: ['用户 id', 'the user’s id'],
  sid: ['会话：退出登录后随即失效', 'the session; refused as soon as that ends'],
  openid: ['这个小程序里的微信号', 'the WeChat account in this mini program'],
  client_id: ['小程序的 AppID', 'the mini program’s AppID'],
  iss: ['签发者', 'who issued it'],
  aud: ['用在哪里', 'where it is good'],
  exp: ['到期，还有', 'expires in'],
  iat: ['签发时间', 'issued at'],
  auth_time: ['上次用手机号登录的时间', 'last login with the phone number'],
  jti: ['token 的编号', 'this token’s id'],
  wx: ['加密的手机号等资料，只有网关能读', 'the phone number and more, encrypted for the gateway'],
  alg: ['签名算法', 'algorithm'],
  kid: ['公钥的编号，见 /auth/wx/jwks.json', 'which public key; see /auth/wx/jwks.json'],
  typ: ['类型', 'type'],
  sent: ['请求', 'request'],
  answered: ['响应', 'answer'],
  lost: ['响应丢失', 'answer lost'],
  waiting: ['进行中', 'under way'],
  noAnswer: ['没有响应', 'no answer'],
  toWeChat: ['网关 → 微信', 'gateway → WeChat'],
  toAPI: ['网关 → 后端', 'gateway → API'],
  onPhone: ['小程序 → 微信', 'phone → WeChat'],
  refusedHere: ['网关拦下，没有到后端', 'refused by the gateway; the API was not reached'],
  by_phone: ['手机', 'phone'],
  by_other: ['另一台设备', 'another device'],
  by_thief: ['盗用者', 'thief'],
  by_owner: ['新机主', 'new owner'],
  unreachable: ['演示已停止', 'The demo has ended']
}

let zh = (localStorage.getItem('language') || navigator.language).startsWith('zh')

// isChinese reports whether the page is in Chinese.
export const isChinese = () => zh

// say picks one of [Chinese, English], by the current language.
export const say = pair => pair[zh ? 0 : 1]

// t returns the text with that name, or '' if there is none.
export const t = name => (words[name] ? say(words[name]) : '')

// speak changes the language and fills in the texts that the HTML names.
export function speak(chinese) {
  zh = chinese
  localStorage.setItem('language', zh ? 'zh' : 'en')
  document.documentElement.lang = zh ? 'zh-CN' : 'en'
  for (const e of document.querySelectorAll('[data-t]')) e.textContent = t(e.dataset.t)
  for (const e of document.querySelectorAll('[data-label]')) e.setAttribute('aria-label', t(e.dataset.label))
}

// make returns a new element with a class, a text or children.
export function make(name, style, ...content) {
  const e = document.createElement(name)
  if (style) e.className = style
  e.append(...content.filter(c => c !== undefined && c !== null))
  return e
}

export const byId = id => document.getElementById(id)
