package wechattest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// A client sends a login code and loses the answer, because the connection is reset. It
// sends the code again and learns that the code was used.
func Example() {
	sim := wechattest.New(wechattest.Options{
		Apps: []wechattest.App{{ID: "wx0123456789abcdef", Secret: "secret"}},
	})
	server := httptest.NewServer(sim)
	defer server.Close()

	codes, err := sim.Mint("wx0123456789abcdef", "", wechattest.Phone{Number: "13800138000"})
	if err != nil {
		fmt.Println(err)
		return
	}
	sim.Inject(wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Reset, Late: true})

	call := server.URL + "/sns/jscode2session?" + url.Values{
		"appid": {"wx0123456789abcdef"}, "secret": {"secret"},
		"js_code": {codes.Code}, "grant_type": {"authorization_code"},
	}.Encode()
	for range 2 {
		res, err := http.Get(call)
		if err != nil {
			fmt.Println("no answer")
			continue
		}
		var answer struct{ Errcode int }
		json.NewDecoder(res.Body).Decode(&answer)
		res.Body.Close()
		fmt.Println("errcode", answer.Errcode)
	}
	fmt.Println("asked", sim.Count(wechattest.Code2Session).Total, "times")

	// Output:
	// no answer
	// errcode 40163
	// asked 2 times
}
