// The steps that each switch leads to. A step is done when an event of its kind has come after
// the event of the step before. Steps with do: true are done by the person at the page.

const ours = '/auth/wx'
const answered = (who, path, code) => e => e.kind === 'answer' && e.who === who && e.path === path &&
  (typeof code === 'number' ? e.status === code : code ? e.outcome === code : true)
const reached = who => (e, at) => e.kind === 'api' && e.path !== '/public/goods' && at.whoOf(e.of) === who
const asked = path => e => e.kind === 'wechat' && e.path === path && e.outcome === 'ok'
const button = (name, on) => e => e.kind === 'switch' && e.name === name && Boolean(e.on) === on

const order = { do: true, zh: '在手机上下单', en: 'Order something on the phone' }
const ordered = { when: e => e.kind === 'request' && e.who === 'phone' && e.path === '/orders' }

export const login = {
  title: ['第一次登录', 'A first login'],
  what: ['浏览不需要登录；到下单才登录。后端里没有一行微信代码。', 'Browsing needs no login, an order does. There is no line of WeChat code in the API.'],
  steps: () => [
    { ...order, when: answered('phone', ours, 'phone_required') },
    { zh: '先静默登录：网关用 wx.login 的 code 换到 openid，还不认识这个微信号，要求验证手机号', en: 'Silently first: the gateway exchanges the code of wx.login for the openid. It does not know this WeChat account and asks for a number', when: answered('phone', ours, 'phone_required'), same: true },
    { do: true, zh: '选一个手机号，点“允许”', en: 'Choose a number and allow it', when: asked('/wxa/business/getuserphonenumber') },
    { zh: '网关向微信换到手机号，AppSecret 始终留在服务端', en: 'The gateway asks WeChat for the number. The AppSecret never leaves the server', when: asked('/wxa/business/getuserphonenumber'), same: true },
    { zh: '网关按手机号找到或新建用户，建立会话，签发 token', en: 'It finds or creates the user of that number, opens a session and issues a token', when: answered('phone', ours, 200) },
    { zh: '刚才的订单自动继续；后端从请求头里知道是谁', en: 'The order goes on by itself. The API reads from its headers who it is', when: reached('phone') }
  ]
}

export const switches = {
  away: {
    toggle: true,
    name: ['微信不可用', 'WeChat is away'],
    line: ['api.weixin.qq.com 只返回 502', 'api.weixin.qq.com answers 502'],
    title: ['微信不可用', 'WeChat is away'],
    what: ['微信的接口出故障时，谁会受影响？', 'WeChat’s API is down. Who notices?'],
    steps: on => [
      ...(on ? [
        { ...order, ...ordered },
        { zh: '已登录的人毫无察觉：校验 token 不需要微信', en: 'Whoever is logged in notices nothing: a token is checked without WeChat', when: reached('phone') },
        { do: true, zh: '退出登录，再下单并登录', en: 'Log out, then order and log in again', when: e => e.kind === 'answer' && e.path === ours && e.status >= 500 }
      ] : [{ ...order, when: e => e.kind === 'answer' && e.path === ours && e.status >= 500 }]),
      { zh: '新的登录办不到：网关再试一次后如实回答，并说明哪些 code 可以原样重发，客户端会自己重试', en: 'A new login cannot work. The gateway tries WeChat once more, then says so, and which codes may be sent again; the client does that by itself', when: e => e.kind === 'answer' && e.path === ours && e.status >= 500, same: true },
      { do: true, zh: '再点一次开关，恢复微信', en: 'Bring WeChat back with the same switch', when: button('away', false) },
      { do: true, zh: '在手机上再试一次', en: 'Try again on the phone', when: answered('phone', ours, 200) },
      { zh: '登录成功，不用重启，也不用清理任何东西', en: 'The login works. Nothing had to be restarted or cleaned up', when: answered('phone', ours, 200), same: true }
    ]
  },
  lost: {
    toggle: true,
    name: ['响应丢失', 'An answer is lost'],
    line: ['下一次登录的响应到不了手机', 'the next login’s answer does not arrive'],
    title: ['登录的响应丢在半路', 'The answer to a login is lost'],
    what: ['手机号 code 要付费，而且只能用一次。响应没收到，这笔钱白花了吗？', 'A phone code costs money and works once. Is it wasted when the answer does not arrive?'],
    steps: on => [
      { do: true, ...(on ? { zh: '退出登录，再下单并登录', en: 'Log out, then order and log in again' } : { zh: '在手机上下单并登录', en: 'Order on the phone and log in' }), when: e => e.kind === 'answer' && e.lost },
      { zh: '网关已经完成登录，但手机没有收到响应', en: 'The gateway has logged the user in, but the phone got no answer', when: e => e.kind === 'answer' && e.lost, same: true },
      { zh: '客户端用同样的 code 自动重发', en: 'The client sends the same codes again by itself', when: e => e.kind === 'request' && e.who === 'phone' && e.path === ours },
      { zh: '网关认得这些 code，返回同一个会话，没有再问微信：不会重复付费', en: 'The gateway knows them and answers the same session without asking WeChat again: nothing is paid twice', when: answered('phone', ours, 200), unless: e => e.kind === 'wechat' }
    ]
  },
  steal: {
    needsLogin: true,
    name: ['盗用 refresh token', 'Steal the refresh token'],
    line: ['有人复制了手机里的 refresh token', 'somebody copies it from the phone'],
    title: ['refresh token 被盗', 'A stolen refresh token'],
    what: ['每次刷新都会换一个新的 refresh token，旧的再出现就说明有人复制过。', 'Each refresh replaces the refresh token. When an old one turns up, somebody has a copy.'],
    steps: () => [
      { zh: '盗用者用复制的 refresh token 换到了新 token，暂时看不出异常', en: 'The thief refreshes with the copy. So far nobody can see a difference', when: answered('thief', ours + '/refresh', 200) },
      { zh: '盗用者冒充用户访问后端', en: 'The thief calls the API in the user’s name', when: reached('thief') },
      { ...order, zh: '在手机上下单（它的 token 刚好到期，需要刷新）', en: 'Order on the phone, whose token has just expired', when: answered('phone', ours + '/refresh', 'reuse_detected') },
      { zh: '手机出示的 refresh token 已经落后两代：网关识破盗用，立即结束会话', en: 'The phone shows a refresh token that is two behind: the gateway sees the theft and ends the session', when: answered('phone', ours + '/refresh', 'reuse_detected'), same: true },
      { zh: '盗用者的 token 和 refresh token 同时失效', en: 'The thief’s token and refresh token are refused from now on', when: answered('thief', ours + '/refresh', 'session_ended') },
      { zh: '手机静默登录，得到新会话，订单成功：用户没有感觉', en: 'The phone logs in silently, in a new session, and the order goes through. Its user noticed nothing', when: reached('phone') }
    ]
  },
  recycle: {
    needsLogin: true,
    name: ['号码换了主人', 'The number is recycled'],
    line: ['运营商把号码给了别人', 'the carrier gives it to somebody else'],
    title: ['号码换了主人', 'A recycled number'],
    what: ['手机号就是账号。号码被运营商回收、发给别人之后，原来的微信还能登录吗？', 'The number is the account. When the carrier gives it to somebody else, does the former WeChat account still get in?'],
    steps: () => [
      { zh: '新机主用自己的微信、同一个号码登录', en: 'The new owner logs in with the number and another WeChat account', when: answered('owner', ours, 200) },
      { ...order, when: answered('phone', '/orders', 'token_revoked') },
      { zh: '原来的 token 立即失效，请求没有到后端', en: 'The former owner’s token is refused at once, and the API is not reached', when: answered('phone', '/orders', 'token_revoked'), same: true },
      { zh: '刷新也不行：会话已结束，原因是 replaced', en: 'No refresh either: the session has ended, with the reason “replaced”', when: answered('phone', ours + '/refresh', 'session_ended') },
      { zh: '静默登录也不行：这个微信号已与该号码解绑，必须重新验证手机号', en: 'Nor a silent login: this WeChat account has lost the number and must show one', when: answered('phone', ours, 'phone_required') },
      { do: true, zh: '在手机上选另一个号码', en: 'Choose the other number on the phone', when: answered('phone', ours, 200) },
      { zh: '成为另一个用户，看不到对方的任何数据。on_new_openid 可以改成拒绝这种登录', en: 'That is another user, and neither sees the other’s data. on_new_openid can refuse such logins instead', when: answered('phone', ours, 200), same: true }
    ]
  },
  elsewhere: {
    needsLogin: true,
    name: ['在别处退出', 'Log out elsewhere'],
    line: ['同一个用户在另一台设备上全部退出', 'the user ends all sessions, on another device'],
    title: ['在另一台设备上全部退出', 'A logout on another device'],
    what: ['JWT 没到期之前也能立即作废吗？', 'Can a JWT be refused before it expires?'],
    steps: () => [
      { zh: '用户在另一台设备上退出所有设备', en: 'On another device the user logs out everywhere', when: answered('other', ours + '/logout', 204) },
      { ...order, when: answered('phone', '/orders', 'token_revoked') },
      { zh: '手机上的 token 还没到期，但已被拒绝，请求没有到后端', en: 'The phone’s token has not expired, yet it is refused, and the API is not reached', when: answered('phone', '/orders', 'token_revoked'), same: true },
      { zh: 'refresh token 也失效：会话已结束，原因是 logout', en: 'So is its refresh token: the session has ended, with the reason “logout”', when: answered('phone', ours + '/refresh', 'session_ended') },
      { zh: '还是同一个微信号：静默登录成功，订单继续', en: 'It is still the same WeChat account: a silent login, and the order goes on', when: reached('phone') }
    ]
  }
}

// tell follows a story from now on. done is the number of steps that are done.
export function tell(story, on) {
  const steps = story.steps(on)
  const who = new Map()
  const at = { whoOf: of => who.get(of) }
  const told = {
    story, steps, done: 0,
    next(e) {
      if (e.kind === 'request') who.set(e.of, e.who)
      const step = steps[told.done]
      if (!step) return
      if (step.unless && step.unless(e)) told.spoilt = true
      if (!step.when(e, at) || told.spoilt) return
      do told.done++
      while (steps[told.done] && steps[told.done].same)
    }
  }
  return told
}
