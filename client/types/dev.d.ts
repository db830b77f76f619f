import type { Simulator } from './index.js'

/** Codes from cmd/wx-sim. Throws in a released or trial mini program and on pages with a public name. */
export function simulated(options: {
  mp: any
  /** Default: http://127.0.0.1:8300 */
  url?: string
  /** Default: wx0123456789abcdef */
  appid?: string
  /** The name of the person whose phone this is. Default: dev */
  user?: string
  /** The number that the button gives. Default: 13800138000 */
  phone?: string | (() => string | Promise<string>)
}): Simulator
