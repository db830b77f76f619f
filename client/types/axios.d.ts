import type { AxiosAdapter } from 'axios'
import type { Auth } from './index.js'

declare module 'axios' {
  interface AxiosRequestConfig {
    /** false: the request never asks for a login. */
    login?: boolean
  }
}

/** axios.create({ adapter: axiosAdapter(auth), baseURL }) */
export function axiosAdapter(auth: Auth): AxiosAdapter
