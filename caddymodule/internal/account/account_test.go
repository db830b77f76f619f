package account

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// scene records, in order, what is done to one user, who has two sessions.
type scene struct {
	decides user.Binding // see Leaver; zero: the account that leaves
	session.Store
	Directory
	done   []string
	broken string // the step that fails
	fixed  bool   // the directory cannot change numbers
	kept   map[login.Key]bool
}

func (s *scene) do(what string) error {
	if what == s.broken {
		return errors.New("away")
	}
	s.done = append(s.done, what)
	return nil
}

func (s *scene) End(context.Context, string, session.Ending) (bool, error) {
	return true, s.do("end one")
}

func (s *scene) EndUser(_ context.Context, _ string, _ session.Ending, each func([]string)) error {
	each([]string{session.NewID(now), session.NewID(now)})
	return s.do("end all")
}

func (s *scene) SetDisabled(_ context.Context, _ string, disabled bool) error {
	if !disabled {
		return s.do("enable")
	}
	return s.do("disable")
}

func (s *scene) EraseLeft(context.Context, string) (bool, []string, error) {
	return true, nil, s.do("erase")
}

func (s *scene) DetachLeft(context.Context, string, string, string) (bool, error) {
	if s.fixed {
		return false, user.ErrPhoneFixed
	}
	return true, s.do("detach")
}

// messages is a store that carries out Leave.
type messages struct {
	Store
	*scene
}

func (m messages) Leave(_ context.Context, appid, openid string, cancelled bool, _ time.Time, _ session.Ending) (Leaver, error) {
	decides := user.Binding{AppID: appid, OpenID: openid, State: user.Detached}
	if cancelled {
		decides.State = user.Cancelled
	}
	if m.decides.OpenID != "" {
		decides = m.decides
	}
	return Leaver{UserID: "ann", Last: true, Decides: decides}, m.do("leave")
}

func (m messages) EndOpenID(context.Context, string, string, session.Ending, func([]string)) error {
	return nil
}

func (m messages) Keep(_ context.Context, step login.Key, _ []byte, _ time.Time, _ ...login.Account) error {
	m.kept[step] = true
	return nil
}

func (m messages) Kept(_ context.Context, step login.Key, _ time.Time) ([]byte, bool, error) {
	return nil, m.kept[step], nil
}

func newScene() (*scene, Accounts) {
	s := &scene{kept: make(map[login.Key]bool)}
	return s, Accounts{
		Directory: s, Store: messages{scene: s}, Sessions: session.Sessions{Store: s, Revoked: session.NewRevoked()},
		Emit: func(events ...event.Event) {
			for _, e := range events {
				s.done = append(s.done, e.Name())
			}
		},
	}
}

// A login in progress may open a session until the user is disabled. So the user is disabled
// first, and the sessions end afterwards. If disabling fails, none ends.
func TestDisableComesBeforeTheEnd(t *testing.T) {
	s, a := newScene()
	ended, err := a.Disable(t.Context(), "ann", now)
	want := []string{"disable", "end all", "wx_auth_user_disabled", "wx_auth_revoked"}
	if err != nil || ended.Count != 2 || !slices.Equal(s.done, want) {
		t.Errorf("%v, %+v, %v", s.done, ended, err)
	}
	s, a = newScene()
	s.broken = "disable"
	if _, err := a.Disable(t.Context(), "ann", now); err == nil || len(s.done) > 0 {
		t.Errorf("%v, %v", s.done, err)
	}
	// After an error some sessions may have ended. The event about the user is emitted by the
	// call that ends the rest.
	s, a = newScene()
	s.broken = "end all"
	if _, err := a.Disable(t.Context(), "ann", now); err == nil || !slices.Equal(s.done, []string{"disable", "wx_auth_revoked"}) {
		t.Errorf("%v, %v", s.done, err)
	}
}

// A thief still has the tokens of a session that its owner has ended. They can end that
// session again, but not the owner's other sessions.
func TestOnlyACurrentSessionEndsOthers(t *testing.T) {
	for _, c := range []struct {
		current, all bool
		want         string
	}{
		{true, true, "end all"}, {true, false, "end one"}, {false, true, "end one"}, {false, false, "end one"},
	} {
		s, a := newScene()
		p := Presented{Session: session.Session{ID: session.NewID(now), UserID: "ann"}, Current: c.current}
		if _, err := a.LogOut(t.Context(), p, c.all, now); err != nil || s.done[0] != c.want {
			t.Errorf("%+v: %v, %v", c, s.done, err)
		}
	}
}

// WeChat repeats a message that was not answered in time, and anybody may have recorded one.
// Such a message is carried out once. If it failed, it is carried out again.
func TestMessageIsCarriedOutOnce(t *testing.T) {
	s, a := newScene()
	m := wechat.PushMessage{Event: "user_authorization_cancellation", OpenID: "o1", CreatedAt: now}
	s.broken = "erase"
	if left, err := a.Leave(t.Context(), "wxA", m, false, now); !errors.Is(err, ErrDirectory) || left != nil {
		t.Errorf("%+v, %v", left, err)
	}
	s.broken = ""
	for i, want := range []bool{true, false} {
		left, err := a.Leave(t.Context(), "wxA", m, false, now)
		if err != nil || (left != nil) != want {
			t.Errorf("%d: %+v, %v", i, left, err)
		}
	}
	if want := []string{"leave", "leave", "erase", "wx_auth_user_erased"}; !slices.Equal(s.done, want) {
		t.Errorf("%v", s.done)
	}
}

// A withdrawn number is not a cancelled account: the user stays, unless the app's settings or the
// directory do not allow it.
func TestWithdrawnNumberDetaches(t *testing.T) {
	for _, c := range []struct {
		name, event  string
		erase, fixed bool
		broken, want string
		decides      user.Binding // another account that has left before
	}{
		{name: "withdrawn", event: wechat.EventRevoke, want: "detach wx_auth_phone_changed"},
		{name: "erase is set", event: wechat.EventRevoke, erase: true, want: "erase wx_auth_user_erased"},
		{name: "the directory cannot", event: wechat.EventRevoke, fixed: true, want: "erase wx_auth_user_erased"},
		{name: "cancelled", event: wechat.EventCancellation, want: "erase wx_auth_user_erased"},
		{name: "the directory is away", event: wechat.EventRevoke, broken: "detach"},
		{name: "another had withdrawn", event: wechat.EventCancellation, erase: true, want: "detach wx_auth_phone_changed",
			decides: user.Binding{AppID: "wxB", OpenID: "o2", State: user.Detached}},
		{name: "another had cancelled", event: wechat.EventRevoke, want: "erase wx_auth_user_erased",
			decides: user.Binding{AppID: "wxB", OpenID: "o2", State: user.Cancelled}},
	} {
		s, a := newScene()
		s.fixed, s.broken, s.decides = c.fixed, c.broken, c.decides
		m := wechat.PushMessage{Event: c.event, RevokeInfo: "8", OpenID: "o1", CreatedAt: now}
		left, err := a.Leave(t.Context(), "wxA", m, c.erase, now)
		if errors.Is(err, ErrDirectory) != (c.broken != "") {
			t.Errorf("%s: %v", c.name, err)
		}
		want := strings.Fields("leave " + c.want)
		if !slices.Equal(s.done, want) || err == nil && (left.Detached == left.Erased || left.Detached != (want[1] == "detach")) {
			t.Errorf("%s: %v, %+v", c.name, s.done, left)
		}
	}
}

// blankless is a database that ignores blanks at the end, as MySQL does, and cannot take a NUL,
// as PostgreSQL cannot.
type blankless struct{ Reader }

func (blankless) Binding(_ context.Context, appid, openid string) (user.Binding, bool, error) {
	if strings.Contains(appid+openid, "\x00") {
		return user.Binding{}, false, errors.New("invalid byte sequence")
	}
	found := strings.TrimRight(appid, " ") == "wxA" && strings.TrimRight(openid, " ") == "o1"
	return user.Binding{UserID: "ann"}, found, nil
}

// A backend looks up what a client sent it as an openid. A text that no openid can be finds
// nobody on any database: not the user of a similar openid, and no outage of the store.
func TestByOpenIDTakesOnlyAnOpenID(t *testing.T) {
	for _, c := range []struct {
		appid, openid string
		found         bool
	}{
		{"wxA", "o1", true},
		{"wxA", "o1 ", false}, {"wxA ", "o1", false}, {"wxA", "o1\x00", false}, {"wxA\x00", "o1", false},
		{"wxA", "", false}, {"wxA", "用户", false}, {"wxA", strings.Repeat("o", 129), false},
	} {
		id, err := Lookup{Store: blankless{}}.ByOpenID(t.Context(), c.appid, c.openid)
		if c.found && (id != "ann" || err != nil) || !c.found && !errors.Is(err, user.ErrUnknown) {
			t.Errorf("%q %q: %q, %v", c.appid, c.openid, id, err)
		}
	}
}
