// One error class for everything that goes wrong, with a text for the user.

// Each row has codes, the button that the login page shows for them, and the text. The button
// is 'phone' (another tap on the phone button helps), 'login' (a plain button), 'retry' (the
// same request once more; nothing is paid twice) or '' (no tap helps).
const catalogue = [
  ['phone_required', 'phone', '请使用手机号登录', 'Please log in with your phone number'],
  ['phone_login_required', 'phone', '为了账号安全，请重新验证手机号', 'Please confirm your phone number'],
  ['phone_code_invalid phone_failed', 'phone', '没有取到手机号，请再点一次按钮', 'No phone number. Please tap the button again'],
  ['phone_denied', 'phone', '需要授权手机号才能登录', 'A phone number is needed to log in'],
  ['privacy_denied', 'phone', '请先阅读并同意隐私保护指引', 'Please agree to the privacy notice first'],
  ['registration_closed', 'phone', '该手机号尚未开通，可换一个手机号', 'This number has no account. You can use another one'],
  ['new_openid_denied', 'phone', '该手机号已绑定其他微信，可换一个手机号', 'Another WeChat account has this number. You can use another one'],
  ['phone_taken', 'phone', '该手机号已被其他账号使用，可换一个手机号', 'Another account has this number. You can use another one'],
  ['phone_change_closed', '', '暂不支持更换手机号', 'The phone number cannot be changed here'],
  ['phone_quota privacy_undeclared phone_unavailable', '', '暂时无法使用手机号登录，请联系客服', 'Phone login is not available. Please contact us'],
  ['user_disabled', '', '账号已停用，请联系客服', 'This account is disabled. Please contact us'],
  ['user_blocked', '', '微信限制了该账号登录', 'WeChat does not let this account log in'],
  ['test_login_invalid test_login_expired test_login_taken', '', '测试登录不可用', 'The test login is not available'],
  ['forbidden cookie_cross_site service_key_invalid push_refused', '', '没有权限', 'You may not do this'],
  ['user_changed', '', '登录的账号已切换，请重新操作', 'Another account has logged in. Please do this again'],
  ['invalid_request not_found method_not_allowed body_too_large unsupported_media_type', '', '请求有误，请更新小程序后再试', 'This went wrong. Please update the mini program'],
  ['logged_out', 'login', '请先登录', 'Please log in'],
  ['token_missing token_invalid token_expired token_revoked refresh_invalid session_ended reuse_detected', 'login', '登录已失效，请重新登录', 'Your login has ended. Please log in again'],
  ['login_code_invalid login_failed', 'retry', '登录没有成功，请再试一次', 'The login did not work. Please try again'],
  ['rate_limited too_early', 'retry', '操作太频繁，请稍后再试', 'Too often. Please try again later'],
  ['no_answer', 'retry', '网络异常，请检查网络后再试', 'No connection. Please check your network'],
  ['wechat_error wechat_unavailable wechat_timeout', 'retry', '微信服务暂时不可用，请稍后再试', 'WeChat is not available. Please try again later'],
  ['bad_answer store_unavailable directory_unavailable misconfigured internal_error', 'retry', '服务暂时不可用，请稍后再试', 'The service is not available. Please try again later']
]
const known = {}
for (const [codes, button, zh, en] of catalogue) for (const code of codes.split(' ')) known[code] = { button, zh, en }

const unknown = { button: 'retry', zh: '操作没有成功，请稍后再试', en: 'This did not work. Please try again later' }

// meaning returns what a code means: {button, zh, en}.
export const meaning = code => known[code] || unknown

// codes lists all codes that have their own text.
export const codes = Object.keys(known)

// buttonFor returns the button that the login page shows for a problem.
export const buttonFor = problem =>
  problem.renew && problem.renew.includes('phoneCode') && problem.code !== 'invalid_request' ? 'phone' : meaning(problem.code).button

export class WxAuthError extends Error {
  // more may have status, detail, renew, reason, requestId and retryAfter (in seconds).
  constructor(code, more) {
    super(code + (more && more.detail ? ': ' + more.detail : ''))
    this.name = 'WxAuthError'
    this.code = code
    this.status = 0
    this.detail = ''
    Object.assign(this, more)
    this.texts = meaning(code)
    this.text = this.texts[language]
  }
}

let language = 'zh'

// useLanguage sets the language of the texts, as WeChat names it: zh_CN, en, …
export const useLanguage = name => { language = /^zh|^$/.test(name || '') ? 'zh' : 'en' }
