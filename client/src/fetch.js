// An mp built on fetch, for web pages without uni-app and for tests in Node. storage is any
// object with getItem and setItem. Without it, the session lasts as long as the process.

export function fetchMP({ storage, fetch = globalThis.fetch } = {}) {
  const memory = new Map()
  const store = storage || { getItem: key => memory.get(key), setItem: (key, value) => memory.set(key, value) }
  const go = ({ url, method = 'GET', data, header, timeout = 60000, success, fail }, read) => {
    const stop = new AbortController()
    const timer = setTimeout(() => stop.abort(), timeout)
    const query = method === 'GET' && data ? (url.includes('?') ? '&' : '?') + new URLSearchParams(data) : ''
    const body = method === 'GET' || data === undefined ? undefined : typeof data === 'string' || data instanceof Blob || data instanceof FormData ? data : JSON.stringify(data)
    const headers = { ...(typeof body === 'string' && { 'Content-Type': 'application/json' }), ...header }
    fetch(url + query, { method, headers, body, signal: stop.signal })
      .then(async r => ({ statusCode: r.status, header: Object.fromEntries(r.headers), ...await read(r) }))
      .then(r => { clearTimeout(timer); success(r) }, e => { clearTimeout(timer); fail({ errMsg: 'request:fail ' + e.message }) })
    return { abort: () => stop.abort() }
  }
  const text = async r => ({ data: await r.text() })
  return {
    getStorageSync: key => { const text = store.getItem(key); return text ? JSON.parse(text) : '' },
    setStorageSync: (key, value) => store.setItem(key, JSON.stringify(value)),
    request: o => go(o, async r => {
      const body = await r.text()
      try { return { data: JSON.parse(body) } } catch (e) { return { data: body } }
    }),
    // file is a Blob, name the name of its field.
    uploadFile({ file, name, formData, ...o }) {
      const data = new FormData()
      data.append(name, file)
      for (const key of Object.keys(formData || {})) data.append(key, formData[key])
      return go({ ...o, method: 'POST', data }, text)
    },
    // The answer has the file in its member file, as a Blob.
    downloadFile: o => go(o, async r => ({ file: await r.blob() })),
    // Without WeChat, only the simulator gives codes.
    login: ({ fail }) => fail({ errMsg: 'login:fail WeChat is not here: use caddy-wx-auth/dev' })
  }
}
