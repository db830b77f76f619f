const { auth } = require('../../auth')

Component({
  data: { goods: [] },
  methods: {
    // Everybody may look around.
    async onLoad() {
      try {
        const { data } = await auth.request({ url: '/goods', login: false })
        this.setData({ goods: data })
      } catch (problem) {
        wx.showToast({ title: problem.text, icon: 'none' })
      }
    },
    // An order needs a login. The login page opens by itself if somebody has to tap.
    async onOrder(event) {
      try {
        const { statusCode } = await auth.request({ url: '/orders', method: 'POST', data: { goods: event.currentTarget.dataset.id } })
        wx.showToast({ title: statusCode === 201 ? '已下单' : '下单失败', icon: 'none' })
      } catch (problem) {
        if (auth.buttonFor(problem) === 'retry') wx.showToast({ title: problem.text, icon: 'none' })
      }
    }
  }
})
