const { auth } = require('../../auth')

const toast = problem => wx.showToast({ title: problem.text || '操作失败', icon: 'none' })

Component({
  data: { user: null, orders: [], devices: [] },
  methods: {
    onLoad() { this.stop = auth.onChange(user => this.setData({ user, orders: [], devices: [] })) },
    onUnload() { this.stop() },
    onShow() {
      this.setData({ user: auth.user })
      if (auth.user) this.refresh()
    },
    async refresh() {
      try {
        const [orders, devices] = await Promise.all([auth.request({ url: '/orders' }), auth.request({ url: '/auth/wx/sessions' })])
        this.setData({ orders: orders.data, devices: devices.data.sessions })
      } catch (problem) { toast(problem) }
    },
    onLogin() { wx.navigateTo({ url: '/pages/login/login' }) },
    onNewPhone(event) { auth.changePhone(event).then(() => this.refresh(), toast) },
    onEnd(event) {
      auth.request({ url: '/auth/wx/sessions/' + event.currentTarget.dataset.id, method: 'DELETE' }).then(() => this.refresh(), toast)
    },
    onLogout() { auth.logout().catch(toast) },
    onLogoutAll() { auth.logout({ all: true }).catch(toast) }
  }
})
