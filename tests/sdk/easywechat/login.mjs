// Logs in at cmd/wx-sim with a WeChat SDK from another team: login code, phone code, and the
// login code once more.
import assert from 'node:assert/strict'
import easywechat from 'node-easywechat'

const { WX_API, WX_APPID, WX_SECRET, CODE, PHONE_CODE, OPENID } = process.env
const app = new easywechat.MiniApp({
  app_id: WX_APPID, secret: WX_SECRET, use_stable_access_token: true, http: { baseURL: WX_API }
})
const session = await app.getUtils().codeToSession(CODE)
assert.equal(session.openid, OPENID)
const phone = (await (await app.getClient()).post('/wxa/business/getuserphonenumber', { json: { code: PHONE_CODE } })).toObject()
assert.equal(phone.phone_info.purePhoneNumber, '13800138000')
await assert.rejects(app.getUtils().codeToSession(CODE), /40163/)
