import type { Answer, Auth } from './index.js'

/** createAlova({ requestAdapter: alovaAdapter(auth), baseURL, responded: r => r.data }) */
export function alovaAdapter(auth: Auth): (elements: { url: string; type: string; data?: any; headers: Record<string, any> }, method: any) => {
  response(): Promise<Answer>
  headers(): Promise<any>
  abort(): void
}
