import { defineConfig } from 'vite'
import plugin from '@dcloudio/vite-plugin-uni'

const uni = plugin.default || plugin
const gateway = `http://127.0.0.1:${process.env.PORT || 8080}`

export default defineConfig({
  plugins: [uni()],
  // The web page and the API have one origin, as in production.
  server: { proxy: { '^/auth/wx': gateway, '^/(goods|orders)$': gateway } }
})
