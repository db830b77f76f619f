package event

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

var (
	someone = user.User{ID: "u1", Phone: user.Phone{Country: "86", National: "13800138000"}}
	opened  = session.Session{ID: "s1", UserID: "u1", AppID: "wx1", OpenID: "the openid", UnionID: "the unionid", Address: "203.0.113.7"}
	ended   = session.Ended{Count: 300, IDs: []string{"s2", "s3"}}
)

// all has what each constructor returns.
var all = map[string][]Event{
	"Login":         {Login(someone, opened)},
	"UserCreated":   {UserCreated(someone, opened)},
	"PhoneRebound":  {PhoneRebound(someone, opened, ended)},
	"PhoneChanged":  {PhoneChanged(someone, opened)},
	"Refused":       {Refused("wx1", problem.UserDisabled, "phone")},
	"Revoked":       Revoked("u1", ended, session.ReasonMax),
	"ReuseDetected": {ReuseDetected(opened)},
	"UserDisabled":  {UserDisabled("u1")},
	"UserEnabled":   {UserEnabled("u1")},
	"PhoneTaken":    {PhoneTaken("u1")},
	"UserErased":    {UserErased("u1", ended)},
}

// An operator's event handler may send an event anywhere, such as into a group chat. No event has
// a whole phone number, an openid, a unionid or an address.
func TestEventsNameNobody(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.IsExported() && len(all[f.Name.Name]) == 0 {
			t.Errorf("%s is not in the table of this test", f.Name.Name)
		}
	}
	for name, events := range all {
		for _, e := range events {
			data, err := json.Marshal(e.Data())
			if err != nil {
				t.Errorf("%s: a handler could not write it: %v", name, err)
			}
			for _, secret := range []string{someone.Phone.National, opened.OpenID, opened.UnionID, opened.Address} {
				if strings.Contains(string(data), secret) {
					t.Errorf("%s has %s: %s", name, secret, data)
				}
			}
			if phone, has := e.Data()["phone"]; has && phone != "+86138****8000" {
				t.Errorf("%s: phone %v", name, phone)
			}
		}
	}
}

// A user without a number, as after a withdrawal, logs in silently. A handler that tests whether
// there is a phone must not find an empty one.
func TestEventWithoutANumberHasNoPhone(t *testing.T) {
	if phone, has := Login(user.User{ID: "u1"}, opened).Data()["phone"]; has {
		t.Errorf("%q", phone)
	}
}

// An action that ended no session, such as a logout that is repeated, causes no event. One that
// ended very many names the first ones and counts all.
func TestRevokedCountsEndedSessions(t *testing.T) {
	if events := Revoked("u1", session.Ended{}, session.ReasonMax); len(events) != 0 {
		t.Errorf("%v", events)
	}
	for _, name := range []string{"Revoked", "UserErased"} {
		if data := all[name][0].Data(); data["count"] != 300 || len(data["sessions"].([]string)) != 2 {
			t.Errorf("%s: %v", name, data)
		}
	}
}
