package replicas

import (
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// PostgreSQL crashes after WeChat has accepted a phone code, and loses the result of the login
// code. The client renews the login code alone. The phone code is used, and not exchanged again.
func TestDatabaseCrashWastesNoPhoneCode(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"back before WeChat's answer": true, "back after it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := rig.NewServer(t, "postgres", "-c", "wal_writer_delay=10s") // the result is not on disk
			replicas := rig.NewReplicas(t, server.Database, 2)
			a, b := replicas[0], replicas[1]
			w := a.WeChat
			codes := w.Tap(t, number)
			release := holdLate(t, w)
			first := rig.InBackground(func() rig.Answer { return a.Login(codes.Code, codes.PhoneCode) })
			rig.Await(t, 10*time.Second, "WeChat has taken the phone code", func() bool { return taken(w, codes.PhoneCode) })
			server.Crash()
			if early {
				server.Start()
				release()
				(<-first).WantProblem(t, 400, "login_code_invalid", []string{"code"})
			} else {
				release()
				(<-first).WantProblem(t, 503, "store_unavailable", []string{})
				server.Start()
			}
			rig.Await(t, 30*time.Second, "the phone code's result is stored", func() bool {
				return server.Count(t, "SELECT COUNT(*) FROM wx_auth_kept_steps") == 1
			})
			for _, r := range replicas {
				r.Login(codes.Code, codes.PhoneCode).WantProblem(t, 400, "login_code_invalid", []string{"code"})
			}
			pair := b.Login(w.Open(t, number).Code, codes.PhoneCode).Pair(t)
			if pair.UserInfo.PhoneNumber != "+86"+number {
				t.Errorf("user %+v", pair.UserInfo)
			}
			if n := w.Count(wechattest.PhoneNumber).Total; n != 1 {
				t.Errorf("%d phone codes were sent to WeChat", n)
			}
		})
	}
}
