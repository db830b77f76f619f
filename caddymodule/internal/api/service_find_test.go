package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// A support desk finds a user by the number or an openid, neither of which is ever in a path.
// It gets nobody else's record, and 404 for an unknown user.
func TestServiceFindsUsers(t *testing.T) {
	s := serve(t, nil)
	p := s.logIn(servedApp, "ann")
	id := p.UserInfo["id"].(string)
	openid := s.service(http.MethodGet, "users/"+id, "").Body.String()
	_, openid, _ = strings.Cut(openid, `"openid":"`)
	openid, _, _ = strings.Cut(openid, `"`)
	for body, want := range map[string]int{
		`{"phone":"+86` + number + `"}`:                            200,
		`{"phone":"+86 138-0013-8000"}`:                            200,
		`{"openid":"` + openid + `","appid":"` + servedApp + `"}`:  200,
		`{"openid":"` + openid + `","appid":"` + pushedApp + `"}`:  404,
		`{"openid":"` + openid + `\u0000","appid":"wx"}`:           404,
		`{"openid":"` + openid + ` ","appid":"` + servedApp + `"}`: 404,
		`{"phone":"+8613900139000"}`:                               404,
		`{"phone":"` + number + `"}`:                               400,
		`{"phone":"nobody"}`:                                       400,
		`{"openid":"` + openid + `"}`:                              400,
		`{"phone":"+86` + number + `","openid":"o","appid":"wx"}`:  400,
		`{}`: 400,
	} {
		w := s.service(http.MethodPost, "users/find", body)
		if w.Code != want || want == 200 != strings.Contains(w.Body.String(), id) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, number) || strings.Contains(text, openid) {
			t.Errorf("the log has it: %s", text)
		}
	}
}

// An auditor asks when the backend read a user's data. The access log has no service endpoints, so
// each read must be one line of our own, and a read that found nobody is none.
func TestServiceLogsEachRead(t *testing.T) {
	s := serve(t, nil)
	id := s.logIn(servedApp, "ann").UserInfo["id"].(string)
	for _, c := range []struct{ method, path, body, what, user string }{
		{http.MethodGet, "users/" + id, "", "show", id},
		{http.MethodPost, "users/find", `{"phone":"+86` + number + `"}`, "find", id},
		{http.MethodGet, "users/" + id + "/export", "", "export", id},
		{http.MethodGet, "users", "", "list", ""},
		{http.MethodGet, "users/nobody", "", "", ""},
	} {
		s.logs.TakeAll()
		s.service(c.method, c.path, c.body)
		lines := s.logs.FilterMessageSnippet("service: ")
		if c.what == "" && lines.Len() == 0 {
			continue
		}
		if lines.Len() != 1 || lines.FilterMessage("service: "+c.what).FilterField(zap.String("user", c.user)).Len() != 1 {
			t.Errorf("%s %s: %v", c.method, c.path, lines.All())
		}
	}
}

// A privacy officer goes through all users page by page. Each user is on exactly one page.
func TestServiceListsUsersByPages(t *testing.T) {
	s := serve(t, nil)
	want := map[string]bool{}
	for i := range 7 {
		n := fmt.Sprintf("1380013800%d", i)
		codes, err := s.wechat.Mint(servedApp, n, wechattest.Phone{Number: n})
		if err != nil {
			t.Fatal(err)
		}
		w := s.post("/auth/wx", `{"appid":"`+servedApp+`","code":"`+codes.Code+`","phoneCode":"`+codes.PhoneCode+`"}`)
		var p pair
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		want[p.UserInfo["id"].(string)] = true
	}
	var pages []int
	for next := ""; ; {
		w := s.service(http.MethodGet, "users?limit=3&after="+next, "")
		var page struct {
			Users []struct{ ID, PhoneNumber string }
			Next  string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		pages = append(pages, len(page.Users))
		for _, u := range page.Users {
			if !want[u.ID] || !strings.HasPrefix(u.PhoneNumber, "+861380013800") {
				t.Errorf("%+v", u)
			}
			delete(want, u.ID)
		}
		if next = page.Next; next == "" {
			break
		}
	}
	if len(want) > 0 || fmt.Sprint(pages) != "[3 3 1]" {
		t.Errorf("%d left out, pages %v", len(want), pages)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=-1", "after=%20"} {
		if w := s.service(http.MethodGet, "users?"+query, ""); w.Code != 400 {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

// An export has everything that is kept about a user, including ended sessions. After an
// erasure it has the tombstone, and nothing that identifies the person.
func TestServiceExportsAUser(t *testing.T) {
	s := serve(t, nil)
	p := s.logIn(servedApp, "ann")
	s.logIn(servedApp, "bob") // a new owner of the number: ann leaves a mark
	id := p.UserInfo["id"].(string)
	w := s.service(http.MethodGet, "users/"+id+"/export", "")
	for _, part := range []string{`"phoneNumber":"+86` + number, `"formerOpenids":[{`, `"state":"active"`, `"endReason":"replaced"`, `"address":"203.0.113.7"`, `"authTime":"`} {
		if w.Code != 200 || !strings.Contains(w.Body.String(), part) {
			t.Errorf("%d without %s: %s", w.Code, part, w.Body)
		}
	}
	if w := s.service(http.MethodDelete, "users/"+id, ""); w.Code != 204 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	w = s.service(http.MethodGet, "users/"+id+"/export", "")
	for _, part := range []string{number, `"openid":"`, `"address"`, `"userAgent"`} {
		if w.Code != 200 || strings.Contains(w.Body.String(), part) || !strings.Contains(w.Body.String(), `"erasedAt"`) {
			t.Errorf("erased: %d with %s: %s", w.Code, part, w.Body)
		}
	}
	if w := s.service(http.MethodGet, "users/nobody/export", ""); w.Code != 404 {
		t.Errorf("nobody: %d", w.Code)
	}
}

// Users in an external directory cannot be found here by their number, because only their
// directory knows the number for certain. List and export have what is kept here.
func TestServiceFindsWhatIsHere(t *testing.T) {
	s, _ := serveMembers(t)
	s.logIn(servedApp, "ann")
	if w := s.service(http.MethodPost, "users/find", `{"phone":"+86`+number+`"}`); w.Code != 409 || !strings.Contains(w.Body.String(), `"not_here"`) {
		t.Errorf("find: %d %s", w.Code, w.Body)
	}
	if w := s.service(http.MethodGet, "users", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"users":[{"id":"`+number+`"}]}` {
		t.Errorf("list: %d %s", w.Code, w.Body)
	}
	if w := s.service(http.MethodGet, "users/"+number+"/export", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"phoneNumber":"+86`) {
		t.Errorf("export: %d %s", w.Code, w.Body)
	}
}
