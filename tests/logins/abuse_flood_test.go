package logins

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const (
	floodRate = 100 // requests per second of the one client
	goodRate  = 10  // logins per second of the others
)

// flood is one client that sends as much as it can, while others log in.
type flood struct {
	t    *testing.T
	r    *rig.Gateway
	eve  string // its address; empty: all clients have the same address
	stop chan struct{}

	mu       sync.Mutex
	statuses map[int]int // number of answers by status; 0: no answer
}

// kind is a kind of request that the one client sends. If fault is set, WeChat answers
// codes that begin with 0eve with that fault.
type kind struct {
	name  string
	fault *wechattest.Fault
	send  func(f *flood, i int) rig.Answer
	// slow kinds occupy WeChat. They are bounded only where clients can be told apart.
	slow bool
	// minute kinds run for a minute in a long test, and for ten seconds otherwise.
	minute bool
}

func (f *flood) login(code, phoneCode string) rig.Answer {
	return loginFrom(f.r.Client, f.eve, code, phoneCode)
}

// odd sends a new login code each time.
func odd(code func(i int) string) func(*flood, int) rig.Answer {
	return func(f *flood, i int) rig.Answer { return f.login(code(i), "") }
}

// oddPhone sends a new phone code each time, with a good login code.
func oddPhone(code func(i int) string) func(*flood, int) rig.Answer {
	return func(f *flood, i int) rig.Answer {
		return f.login(f.r.WeChat.OpenAs(f.t, rig.AppID, "eve").Code, code(i))
	}
}

// raw sends the beginning of a login. The rest follows after a while, or never.
func raw(hold bool) func(*flood, int) rig.Answer {
	return func(f *flood, i int) rig.Answer {
		conn, err := net.Dial("tcp", f.r.Caddy.Addr)
		if err != nil {
			return rig.Answer{Err: err}
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST /auth/wx HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n{\"code\":\"0eve", f.r.Caddy.Addr, from(f.eve)); err != nil {
			return rig.Answer{Err: err}
		}
		if hold {
			select {
			case <-f.stop:
			case <-time.After(12 * time.Second):
			}
		}
		return rig.Answer{}
	}
}

func mine(i int) string { return fmt.Sprint("0eve", i) }

func kinds() []kind {
	codes := func(name string, fault wechattest.Fault, slow bool) []kind {
		login, phone := fault, fault
		login.Call, phone.Call = wechattest.Code2Session, wechattest.PhoneNumber
		return []kind{
			{name: name + ", login code", fault: &login, send: odd(mine), slow: slow, minute: fault.Errcode == 99999},
			{name: name + ", phone code", fault: &phone, send: oddPhone(mine), slow: slow},
		}
	}
	bytes := []string{"0 a", "0\x00", "0é", "令牌", "0\u202e", "0\u0085", strings.Repeat("😀", 40)}
	return slices.Concat(
		[]kind{
			{name: "nothing", minute: true, send: nil},
			{name: "codes of 3.9 KB", minute: true, send: odd(func(int) string { return strings.Repeat("x", 3900) })},
			{name: "codes of 256 characters that the edge finds long", minute: true, fault: &wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Status, Status: 414},
				send: odd(func(i int) string { return fmt.Sprintf("0eve%0252d", i) })},
			{name: "odd bytes", minute: true, send: odd(func(i int) string { return bytes[i%len(bytes)] })},
			{name: "odd bytes, phone code", send: oddPhone(func(i int) string { return bytes[i%len(bytes)] })},
			{name: "expired or unknown codes", minute: true, send: odd(mine)},
			{name: "expired or unknown phone codes", send: oddPhone(mine)},
			{name: "swapped codes", minute: true, send: func(f *flood, i int) rig.Answer {
				c := f.r.WeChat.TapAs(f.t, rig.AppID, "eve", wechattest.Phone{Number: "13900139000"})
				return f.login(c.PhoneCode, c.Code)
			}},
			{name: "another user's phone code", send: func(f *flood, i int) rig.Answer {
				c := f.r.WeChat.TapAs(f.t, rig.AppID, "mallory", wechattest.Phone{Number: "13900139001"})
				return f.login(f.r.WeChat.OpenAs(f.t, rig.AppID, "eve").Code, c.PhoneCode)
			}},
			{name: "slow bodies", minute: true, send: raw(true)},
			{name: "broken bodies", minute: true, send: raw(false)},
			{name: "bodies that are no JSON", send: func(f *flood, i int) rig.Answer {
				return f.r.Do(http.MethodPost, "/auth/wx", `{"code":"0eve`, from(f.eve))
			}},
		},
		codes("unknown errcodes", wechattest.Fault{Kind: wechattest.Errcode, Errcode: 99999}, false),
		codes("malformed for WeChat", wechattest.Fault{Kind: wechattest.Errcode, Errcode: 47001}, false),
		codes("WeChat is busy", wechattest.Fault{Kind: wechattest.Errcode, Errcode: -1}, true),
		codes("the minute's quota", wechattest.Fault{Kind: wechattest.Errcode, Errcode: 45011}, false),
		codes("403 of the edge", wechattest.Fault{Kind: wechattest.Status, Status: 403}, false),
		codes("HTML", wechattest.Fault{Kind: wechattest.HTML}, false),
		codes("502", wechattest.Fault{Kind: wechattest.Status}, false),
		codes("a reset connection", wechattest.Fault{Kind: wechattest.Reset}, false),
		codes("no answer in time", wechattest.Fault{Kind: wechattest.Delay, Delay: 8 * time.Second}, true),
	)
}

// One client sends whatever it likes, a hundred times a second. The logins of others
// must succeed meanwhile, whether clients can be told apart or not. With
// WX_AUTH_TEST_LONG it goes on for a minute.
func TestOneClientStopsNobody(t *testing.T) {
	for name, apart := range map[string]bool{"clients told apart": true, "one address for all": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.NewGatewayWith(t, strings.Replace(crowdSite(), "timeout 1s", "timeout 3s", 1))
			r.WeChat.LimitRequestLine(3 << 10)
			var rows []string
			for i, k := range kinds() {
				lasts := time.Duration(rig.Rounds(300, 10_000)) * time.Millisecond
				if k.minute && rig.Long {
					lasts = time.Minute
				}
				if k.slow && !apart {
					continue
				}
				f := &flood{t: t, r: r, stop: make(chan struct{}), statuses: make(map[int]int)}
				if apart {
					f.eve = fmt.Sprintf("203.0.113.%d", i+1)
				}
				rows = append(rows, f.run(k, i, lasts))
			}
			t.Logf("%s:\n%-50s %8s %6s %7s %8s %8s  %s\n%s", name, "one client sends", "others", "good", "share", "p50 ms", "p99 ms", "its answers", strings.Join(rows, "\n"))
		})
	}
}

func (f *flood) run(k kind, n int, lasts time.Duration) (row string) {
	w := f.r.WeChat
	w.ClearFaults()
	if k.fault != nil {
		fault := *k.fault
		fault.Code, fault.Count = "0eve", -1
		if err := w.Inject(fault); err != nil {
			f.t.Fatal(err)
		}
	}
	var senders, others sync.WaitGroup
	senders.Go(func() {
		if k.send == nil {
			return
		}
		beat := time.NewTicker(time.Second / floodRate)
		defer beat.Stop()
		for i := 0; ; i++ {
			select {
			case <-f.stop:
				return
			case <-beat.C:
			}
			senders.Go(func() {
				a := k.send(f, i)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.statuses[a.Status]++
			})
		}
	})
	time.Sleep(lasts / 4) // until the flood is under way
	var mu sync.Mutex
	var took []time.Duration
	failed := 0
	beat := time.NewTicker(time.Second / goodRate)
	defer beat.Stop()
	total := int(lasts * goodRate / time.Second)
	for i := range total {
		others.Go(func() {
			c := w.TapAs(f.t, rig.AppID, "", wechattest.Phone{Number: fmt.Sprintf("13%02d%07d", n, i)})
			address := ""
			if f.eve != "" {
				address = fmt.Sprintf("198.18.%d.%d", i/250, i%250)
			}
			start := time.Now()
			a := loginFrom(f.r.Client, address, c.Code, c.PhoneCode)
			mu.Lock()
			defer mu.Unlock()
			if took = append(took, time.Since(start)); a.Status != http.StatusOK {
				if failed++; failed <= 3 {
					f.t.Errorf("beside %s: %d %v %s", k.name, a.Status, a.Err, a.Body)
				}
			}
		})
		<-beat.C
	}
	others.Wait()
	close(f.stop)
	senders.Wait()
	slices.Sort(took)
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%-50s %8d %6d %6.1f%% %8.1f %8.1f  %v", k.name, total, total-failed, 100*float64(total-failed)/float64(total),
		millis(took[len(took)/2]), millis(took[min(len(took)-1, len(took)*99/100)]), f.statuses)
}
