const { auth, local, phone } = require('../../auth')

Component({
  data: { need: '', text: '', busy: false, local, number: phone.number, review: false },
  methods: {
    onLoad() { this.enter(auth.ready()) }, // silently, unless the user has logged out
    onPhone(event) { this.enter(auth.login(event)) }, // the code, or why there is none
    onLogin() { this.enter(auth.login()) },
    onReview(event) { this.enter(auth.testLogin(event.detail.value)) },
    onShowReview() { this.setData({ review: true }) },
    onNumber(event) { phone.number = event.detail.value },
    async enter(attempt) {
      this.setData({ busy: true, text: '' })
      try {
        await attempt
        wx.navigateBack()
      } catch (problem) {
        this.setData({ need: auth.buttonFor(problem), text: problem.code === 'phone_required' ? '' : problem.text })
      }
      this.setData({ busy: false })
    }
  }
})
