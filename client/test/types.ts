// This file is only compiled: it is what a TypeScript project writes.
import axios from 'axios'
import { createAlova } from 'alova'
import { createAuth, buttonFor, WxAuthError, type User } from 'caddy-wx-auth'
import { simulated } from 'caddy-wx-auth/dev'
import { fetchMP } from 'caddy-wx-auth/fetch'
import { axiosAdapter } from 'caddy-wx-auth/axios'
import { alovaAdapter } from 'caddy-wx-auth/alova'

const mp = fetchMP()
const auth = createAuth({ base: 'https://api.example.com', mp, loginPage: '/pages/login/login', simulator: simulated({ mp, phone: async () => '13800138000' }) })
export async function shop(): Promise<User | null> {
  const stop = auth.onChange(user => user && user.phoneNumber.slice(-4))
  try {
    await auth.login({ detail: { code: 'x' } })
    const { data } = await auth.request<{ id: string }[]>({ url: '/orders', login: false })
    data[0].id.toUpperCase()
    await auth.logout({ all: true })
  } catch (e) {
    if (e instanceof WxAuthError && buttonFor(e) === 'phone') console.log(e.text, e.texts.en, e.renew?.includes('code'))
  }
  stop()
  // @ts-expect-error a number is no phone code
  await auth.changePhone(1)
  return auth.user
}
export const http = axios.create({ adapter: axiosAdapter(auth), baseURL: 'https://api.example.com' })
export const orders = () => http.get('/orders', { login: false })
export const alova = createAlova({ requestAdapter: alovaAdapter(auth), baseURL: 'https://api.example.com', responded: r => r.data })
