// A shop's API, as it stands behind the gateway: the caller is a header, and there is
// nothing else about logins here. Memory only.
import { createServer } from 'node:http'

const goods = [
  { id: 1, name: '龙井 / Longjing tea', price: 68 },
  { id: 2, name: '青瓷杯 / Celadon cup', price: 45 },
  { id: 3, name: '竹茶则 / Bamboo scoop', price: 12 }
]
const orders = new Map() // user id → orders

createServer((req, res) => {
  const answer = (status, value) => {
    res.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8' })
    res.end(JSON.stringify(value))
  }
  const user = req.headers['x-wx-user-id']
  const mine = orders.get(user) || []
  const { pathname } = new URL(req.url, 'http://api')
  if (req.method === 'GET' && pathname === '/goods') return answer(200, goods)
  if (pathname !== '/orders' || !user) return answer(404, { error: 'not found' })
  if (req.method === 'GET') return answer(200, mine)
  let body = ''
  req.on('data', piece => { body = (body + piece).slice(0, 1000) })
  req.on('end', () => {
    const wanted = goods.find(g => body.includes(`"goods":${g.id}`))
    if (!wanted) return answer(400, { error: 'no such goods' })
    const order = { id: mine.length + 1, ...wanted, phone: req.headers['x-wx-phone'] }
    orders.set(user, [order, ...mine])
    answer(201, order)
  })
}).listen(Number(process.env.PORT || 3000), process.env.HOST || '127.0.0.1')
