// The one client of the whole app.
import { reactive, shallowRef } from 'vue'
import { createAuth } from 'caddy-wx-auth'
import { simulated } from 'caddy-wx-auth/dev'

let base = import.meta.env.VITE_BASE
// #ifdef H5
base = location.origin
// #endif

// What the phone button gives in development.
export const phone = reactive({ number: '13800138000' })

// Without VITE_SIMULATOR the bundler drops this and the import above.
const simulator = import.meta.env.VITE_SIMULATOR
  ? simulated({ mp: uni, url: import.meta.env.VITE_SIMULATOR, phone: () => phone.number })
  : undefined
export const local = Boolean(simulator)

export const auth = createAuth({ base, mp: uni, loginPage: '/pages/login/login', simulator })

// The user, for templates.
export const user = shallowRef(auth.user)
auth.onChange(now => { user.value = now })

export const toast = problem => uni.showToast({ title: problem.text || '操作失败', icon: 'none' })
