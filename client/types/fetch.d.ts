/** An mp for createAuth, for web pages without uni-app and for tests in Node. */
export function fetchMP(options?: {
  /** For example localStorage. Default: memory. */
  storage?: { getItem(key: string): string | null | undefined; setItem(key: string, value: string): unknown }
  fetch?: typeof globalThis.fetch
}): any
