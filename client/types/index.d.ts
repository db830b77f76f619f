/** The user who is logged in. A directory may add members. */
export interface User {
  id: string
  /** E.164: +8613800138000 */
  phoneNumber: string
  purePhoneNumber: string
  countryCode: string
  isNew?: boolean
  /** This WeChat account belonged to another user before: ask whether the number is new. */
  moved?: boolean
  [name: string]: unknown
}

/** The codes of the gateway and of the client. */
export type Code =
  | 'phone_required' | 'phone_login_required' | 'phone_code_invalid' | 'login_code_invalid' | 'registration_closed' | 'new_openid_denied'
  | 'user_disabled' | 'user_blocked' | 'phone_taken' | 'phone_change_closed' | 'test_login_invalid' | 'test_login_expired' | 'test_login_taken'
  | 'token_missing' | 'token_invalid' | 'token_expired' | 'token_revoked' | 'refresh_invalid' | 'session_ended' | 'reuse_detected'
  | 'rate_limited' | 'too_early' | 'wechat_error' | 'wechat_unavailable' | 'wechat_timeout' | 'store_unavailable' | 'directory_unavailable'
  | 'misconfigured' | 'internal_error' | 'forbidden' | 'invalid_request'
  /** No answer came: no network, or a timeout. */
  | 'no_answer'
  /** The answer did not come from the gateway, but for example from a proxy or a hotel's network. */
  | 'bad_answer'
  /** wx.login gave no code. */
  | 'login_failed'
  /** The user has logged out, so only login() logs in again. */
  | 'logged_out'
  /** Another user logged in during the request, so it was not repeated. */
  | 'user_changed'
  /** The phone button gave no code: refused, quota used up, privacy notice not agreed to or incomplete, no permission, other. */
  | 'phone_denied' | 'phone_quota' | 'privacy_denied' | 'privacy_undeclared' | 'phone_unavailable' | 'phone_failed'
  | (string & {})

export class WxAuthError extends Error {
  constructor(code: Code, more?: Partial<WxAuthError>)
  code: Code
  /** HTTP status; 0 if no answer came. */
  status: number
  /** For developers, in English. */
  detail: string
  /** The codes to fetch again. []: send the same codes again. */
  renew?: ('code' | 'phoneCode')[]
  /** Why the session ended, for session_ended: logout, max, replaced, revoked, expired. */
  reason?: string
  requestId?: string
  /** Seconds. */
  retryAfter?: number
  /** For the user, in the phone's language. */
  text: string
  texts: { zh: string; en: string }
}

/** The event of <button open-type="getPhoneNumber">. */
export interface PhoneEvent {
  detail: { code?: string; errMsg?: string; errno?: number; [name: string]: unknown }
}

/** The button for a problem: the phone button, a plain "log in", "try again", or none. */
export type Button = 'phone' | 'login' | 'retry' | ''
export function buttonFor(problem: { code: string; renew?: string[] }): Button

export interface Answer<T = any> {
  statusCode: number
  data: T
  header: Record<string, string>
  [name: string]: any
}

interface Common {
  /** A path of the API, which begins with / . */
  url: string
  header?: Record<string, string>
  /** Milliseconds; default 60000. */
  timeout?: number
  /** false: the request is sent with a token if there is one, and never asks for a login. Default: true. */
  login?: boolean
  /** Gets wx's task, for progress or to abort. Called again if the request is repeated. */
  onTask?: (task: any) => void
  [option: string]: any
}
export interface RequestOptions extends Common {
  method?: 'OPTIONS' | 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE' | 'TRACE' | 'CONNECT' | 'PATCH' | string
  data?: any
}
export interface UploadOptions extends Common {
  filePath?: string
  name: string
  formData?: Record<string, any>
}
export interface SocketOptions {
  url: string
  header?: Record<string, string>
  protocols?: string[]
  /** Where to put the token. protocol and query need a `credential` line. Default: header; on web pages protocol. */
  tokenIn?: 'header' | 'protocol' | 'query'
  [option: string]: any
}

export interface AuthOptions {
  /** https://api.example.com */
  base: string
  /** wx, uni, or the result of fetchMP(). */
  mp: any
  /** Default: mp.getAccountInfoSync()'s. Needed on web pages. */
  appid?: string
  /** The login page's path. It is opened once when a request needs a login. */
  loginPage?: string
  /**
   * Called instead of opening loginPage. It is called again only after its promise has ended and the
   * page named in loginPage, if any, is closed. If a user is logged in by then, the request continues.
   */
  onLoginNeeded?: (problem: WxAuthError) => unknown
  /** `endpoints` of the gateway. Default: /auth/wx */
  endpoints?: string
  /** Default: wx-auth */
  storageKey?: string
  /** Milliseconds to wait for the gateway or for wx.login. Default: 15000. */
  timeout?: number
  /** The language of the texts, as WeChat names it: zh_CN, en. Default: the phone's. */
  language?: string
  /** For development: the result of simulated() in caddy-wx-auth/dev. */
  simulator?: Simulator
}

export interface Simulator {
  appid: string
  login(): Promise<string>
  phone(): Promise<string>
}

export interface Auth {
  /** The user who is logged in, or null. */
  readonly user: User | null
  /** Calls f whenever the user changes. Returns a function that stops it. */
  onChange(f: (user: User | null) => void): () => void
  /** Returns the user, after a silent login if needed. Never logs in after a logout. For the start of the login page. */
  ready(): Promise<User>
  /** Logs in when the user asks for it: with the phone button's code or event, or silently without one. */
  login(phone?: string | PhoneEvent): Promise<User>
  /** The login of a reviewer, see `test_login`. */
  testLogin(secret: string): Promise<User>
  /** Like wx.request, as a promise and with the token. */
  request<T = any>(options: RequestOptions): Promise<Answer<T>>
  uploadFile(options: UploadOptions): Promise<Answer<string>>
  downloadFile(options: Common): Promise<Answer & { tempFilePath: string }>
  /** Like wx.connectSocket; resolves to the task once there is a token. */
  connectSocket(options: SocketOptions): Promise<any>
  /** The phone forgets the session at once, even without a network. Rejects if the gateway has not confirmed; the client tries again later. */
  logout(options?: { all?: boolean }): Promise<void>
  changePhone(phone: string | PhoneEvent): Promise<User>
  buttonFor: typeof buttonFor
}

export function createAuth(options: AuthOptions): Auth
