// The one client of the whole app.
const { createAuth } = require('caddy-wx-auth')
const { simulated } = require('caddy-wx-auth/dev')
const config = require('./config')

// The simulator is for development only: simulated() throws in any other version.
const local = wx.getAccountInfoSync().miniProgram.envVersion === 'develop' && config.local
const phone = { number: '13800138000' } // what the phone button gives in development

module.exports = {
  local: Boolean(local),
  phone,
  auth: createAuth({
    base: local ? local.base : config.base,
    mp: wx,
    loginPage: '/pages/login/login',
    simulator: local ? simulated({ mp: wx, url: local.simulator, phone: () => phone.number }) : undefined
  })
}
