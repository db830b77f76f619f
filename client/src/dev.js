// Development without WeChat: login and phone codes come from the simulator (cmd/wx-sim).
//
// This is a separate entry point, so a build that does not import it does not contain it. It
// also refuses to start in a released or trial mini program, on a page with a public name, and
// with a simulator outside a private network. And a gateway that asks the real WeChat accepts
// none of the simulator's codes.

const isPrivate = host => /^\[[0-9a-f:.]*\]$|^[^.]+$|^(.*\.)(localhost|local|internal|test)$|^(127|10|192\.168|169\.254|172\.(1[6-9]|2\d|3[01]))(\.\d+)+$/.test(host)

function refuse(mp, url) {
  const host = (/^https?:\/\/(\[[^\]]*\]|[^/:]+)/.exec(url) || [])[1]
  if (!host || !isPrivate(host)) throw new Error('the simulator must be in a private network, not ' + url)
  if (mp.getAccountInfoSync) {
    const version = mp.getAccountInfoSync().miniProgram.envVersion
    if (version !== 'develop') throw new Error('caddy-wx-auth/dev is for development only; this is the version "' + version + '"')
  }
  if (typeof location === 'object' && location.hostname && !isPrivate(location.hostname)) {
    throw new Error('caddy-wx-auth/dev is for development only; this page is at ' + location.hostname)
  }
}

// simulated returns the option simulator of createAuth. user names the person whose phone this
// is. phone is the number, or a function that returns it, also asynchronously.
export function simulated({ mp, url = 'http://127.0.0.1:8300', appid = 'wx0123456789abcdef', user = 'dev', phone = '13800138000' }) {
  refuse(mp, url)
  const codes = data => new Promise((done, failed) => mp.request({
    url: url + '/_control/codes', method: 'POST', data, timeout: 10000, header: { 'Content-Type': 'application/json' },
    success: r => (r.statusCode === 200 ? done(r.data) : failed(new Error('the simulator answered ' + r.statusCode + ': ' + JSON.stringify(r.data)))),
    fail: e => failed(new Error('no simulator at ' + url + ': ' + (e && e.errMsg)))
  }))
  return {
    appid,
    login: async () => (await codes({ appid, user })).code,
    phone: async () => (await codes({ appid, user, phone: await (typeof phone === 'function' ? phone() : phone) })).phoneCode
  }
}
