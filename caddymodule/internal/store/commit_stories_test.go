package store

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A scene is one step of a story. The field who names a WeChat account and an app: "alice/wx1" is
// Alice's openid in wx1. With a "+" in front, WeChat also sends her unionid. The field user is the
// owner of the login's phone number.
type scene struct {
	who, user string
	rule      user.NewOpenID
	silent    bool
	leaves    bool // no login: WeChat reports that the openid has left

	fails   error
	rebound bool
}

// cast plays the scenes of a story, one each hour.
type cast struct {
	t    *testing.T
	s    *Store
	at   time.Time
	open map[string]string // session → account and user
}

func newCast(t *testing.T, s *Store) *cast {
	return &cast{t: t, s: s, at: now, open: make(map[string]string)}
}

func bindingOf(who, userID string, at time.Time) user.Binding {
	name, union := strings.CutPrefix(who, "+")
	person, appid, _ := strings.Cut(name, "/")
	b := user.Binding{AppID: appid, OpenID: person + "@" + appid, UserID: userID, PhoneAt: at}
	if union {
		b.UnionID = "union-" + person
	}
	return b
}

func (c *cast) play(i int, sc scene) {
	c.t.Helper()
	c.at = c.at.Add(time.Hour)
	b := bindingOf(sc.who, sc.user, c.at)
	if sc.leaves {
		left, err := c.s.Leave(c.t.Context(), b.AppID, b.OpenID, false, c.at, ending(c.at, settings.Until(c.at)))
		if err != nil {
			c.t.Fatal(err)
		}
		for _, id := range left.Ended {
			delete(c.open, id)
		}
		return
	}
	l := loginCommit(b, sc.rule, newSession(sc.user, b.AppID, b.OpenID, c.at))
	l.Session.UnionID = b.UnionID
	if sc.silent {
		l.Phone = user.Phone{}
	}
	done, err := commit(c.t, c.s, l)
	if !errors.Is(err, sc.fails) || done.Rebound != sc.rebound {
		c.t.Errorf("scene %d, %+v: %v, %+v", i, sc, err, done)
	}
	if err == nil {
		c.open[l.Session.ID] = strings.TrimPrefix(sc.who, "+") + "=" + sc.user
	}
	for _, id := range done.Ended {
		delete(c.open, id)
	}
}

// silent returns the user of an account's silent login, or "" if the account cannot log in
// silently.
func (c *cast) silent(who string) string {
	c.t.Helper()
	b := bindingOf(who, "", c.at)
	known, err := c.s.Known(c.t.Context(), login.Account{AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID})
	if err != nil {
		c.t.Fatal(err)
	}
	if known.State != user.Active || known.Taken || known.PhoneAt.IsZero() {
		return ""
	}
	return known.UserID
}

// In each story, number 1 of user a belongs to Alice first and to Bob later. User b has number 2.
var stories = map[string]struct {
	scenes []scene
	live   []string          // the live sessions, as account and user
	silent map[string]string // the user that each account logs in as silently; "" if it cannot
}{
	"replace in one app": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "", "bob/wx1": "a"},
	},
	"keep": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Keep},
			{who: "alice/wx2", user: "a", rule: user.Keep},
			{who: "bob/wx1", user: "a", rule: user.Keep},
		},
		live:   []string{"alice/wx1=a", "alice/wx2=a", "bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "a", "alice/wx2": "a", "bob/wx1": "a"},
	},
	"(a) her session stays when her openid moves": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "alice/wx1", user: "b", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace},
		},
		live:   []string{"alice/wx1=b", "bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "b", "bob/wx1": "a"},
	},
	"(a) under keep, too": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Keep},
			{who: "alice/wx1", user: "b", rule: user.Keep},
		},
		live:   []string{"alice/wx1=b"},
		silent: map[string]string{"alice/wx1": "b"},
	},
	"(b) deny after her openid has moved": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Deny},
			{who: "alice/wx1", user: "b", rule: user.Deny},
			{who: "bob/wx1", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
			{who: "alice/wx1", user: "a", rule: user.Deny}, // she has both numbers
			{who: "bob/wx1", user: "b", rule: user.Deny, fails: user.ErrNewOpenID},
		},
		live:   []string{"alice/wx1=a"},
		silent: map[string]string{"alice/wx1": "a", "bob/wx1": ""},
	},
	"(c) her other mini program, unionids unknown": {
		scenes: []scene{
			{who: "alice/wx2", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"alice/wx2": "", "bob/wx1": "a"},
	},
	"(c) her other mini program, unionids known": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"+alice/wx1": "", "+alice/wx2": "", "+alice/wx3": "", "+bob/wx1": "a", "+bob/wx3": "a"},
	},
	"her other mini program after her openid has moved": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+alice/wx1", user: "b", rule: user.Replace},
			{who: "+bob/wx1", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"alice/wx1=b", "bob/wx1=a"},
		silent: map[string]string{"+alice/wx1": "b", "+alice/wx2": "", "+alice/wx3": "b", "+bob/wx1": "a"},
	},
	"a session without a binding of its user": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Keep, silent: true},
			{who: "+bob/wx3", user: "a", rule: user.Replace, rebound: true},
		},
		live:   []string{"bob/wx3=a"},
		silent: map[string]string{"+alice/wx1": "", "+alice/wx2": "", "+alice/wx3": "", "+alice/wx4": ""},
	},
	"one account in two apps": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+alice/wx1", user: "a", rule: user.Replace},
		},
		live:   []string{"alice/wx1=a", "alice/wx1=a", "alice/wx2=a"},
		silent: map[string]string{"+alice/wx1": "a", "+alice/wx2": "a"},
	},
	"an openid that is bound already ends nothing": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Keep},
			{who: "bob/wx1", user: "a", rule: user.Keep},
			{who: "carol/wx2", user: "a", rule: user.Keep},
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "alice/wx1", user: "a", rule: user.Deny},
		},
		live:   []string{"alice/wx1=a", "alice/wx1=a", "alice/wx1=a", "bob/wx1=a", "carol/wx2=a"},
		silent: map[string]string{"alice/wx1": "a", "bob/wx1": "a", "carol/wx2": "a"},
	},
	"a suspended openid becomes active again, and nobody ends": {
		scenes: []scene{
			{who: "alice/wx2", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
			{who: "alice/wx2", user: "a", rule: user.Replace, rebound: true},
			{who: "alice/wx2", user: "a", rule: user.Deny},
		},
		live:   []string{"alice/wx2=a", "alice/wx2=a", "bob/wx1=a"},
		silent: map[string]string{"alice/wx2": "a", "bob/wx1": "a"},
	},
	"under deny, too": {
		scenes: []scene{
			{who: "alice/wx2", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
			{who: "alice/wx2", user: "a", rule: user.Deny, rebound: true},
		},
		live:   []string{"alice/wx2=a", "bob/wx1=a"},
		silent: map[string]string{"alice/wx2": "a", "bob/wx1": "a"},
	},
	"deny in one app": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Deny},
			{who: "bob/wx1", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
		},
		live:   []string{"alice/wx1=a"},
		silent: map[string]string{"alice/wx1": "a", "bob/wx1": ""},
	},
	"deny in two apps, unionids known": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Deny},
			{who: "+bob/wx2", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
			{who: "bob/wx2", user: "a", rule: user.Deny, fails: user.ErrNewOpenID}, // this openid belongs to another Open Platform account
			{who: "+alice/wx2", user: "a", rule: user.Deny},
		},
		live:   []string{"alice/wx1=a", "alice/wx2=a"},
		silent: map[string]string{"+alice/wx1": "a", "+alice/wx2": "a", "+bob/wx2": ""},
	},
	"whom deny lets in is treated as by replace": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Deny}, // no unionid is known
			{who: "bob/wx2", user: "a", rule: user.Deny, rebound: true},
		},
		live:   []string{"bob/wx2=a"},
		silent: map[string]string{"alice/wx1": "", "bob/wx2": "a"},
	},
	"deny knows an openid that was replaced and has moved": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "bob/wx1", user: "a", rule: user.Replace, rebound: true},
			{who: "bob/wx1", user: "b", rule: user.Replace},
			{who: "carol/wx1", user: "a", rule: user.Deny, fails: user.ErrNewOpenID},
			{who: "bob/wx1", user: "a", rule: user.Deny},
		},
		live:   []string{"bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "", "bob/wx1": "a", "carol/wx1": ""},
	},
	"whoever has left one app needs the phone there, by the unionid too": {
		scenes: []scene{
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
			{who: "+alice/wx1", leaves: true},
		},
		live:   []string{"alice/wx2=a"},
		silent: map[string]string{"+alice/wx1": "", "+alice/wx2": "a", "+alice/wx3": "a"},
	},
	"a silent login of a directory's own moves nothing": {
		scenes: []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "alice/wx1", user: "b", rule: user.Replace, silent: true},
			{who: "bob/wx1", user: "a", rule: user.Replace, silent: true},
		},
		live:   []string{"alice/wx1=a", "alice/wx1=b", "bob/wx1=a"},
		silent: map[string]string{"alice/wx1": "a"},
	},
}

// In each story a number passes from Alice to Bob in some way. Afterwards exactly those sessions
// are live, and exactly those silent logins work, that the rule allows.
func TestStoriesOfRecycledNumbers(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for name, story := range stories {
			t.Run(name, func(t *testing.T) {
				c := newCast(t, s)
				for i, sc := range story.scenes {
					c.play(i, sc)
				}
				var live []string
				for id, who := range c.open {
					got, err := s.Session(t.Context(), id)
					if err != nil || !got.EndedAt.IsZero() {
						t.Errorf("the session of %s has ended, but was not reported as ended: %v", who, err)
					}
					live = append(live, who)
				}
				if slices.Sort(live); !slices.Equal(live, story.live) {
					t.Errorf("live are %q, want %q", live, story.live)
				}
				if n := count(t, s, `SELECT COUNT(*) FROM {sessions} WHERE ended_at = 0`); n != len(story.live) {
					t.Errorf("%d sessions are live, want %q", n, story.live)
				}
				for who, want := range story.silent {
					if got := c.silent(who); got != want {
						t.Errorf("%s logs in silently as %q, want %q", who, got, want)
					}
				}
				for _, table := range []string{"{sessions}", "{bindings}", "{former_openids}"} {
					execute(t, s, `DELETE FROM `+table)
				}
			})
		}
	})
}

// A session may have been opened before its binding got a unionid. It counts as the account of that
// unionid all the same.
func TestAccountIsKnownByItsBindingToo(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		c := newCast(t, s)
		for i, sc := range []scene{
			{who: "alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx1", user: "a", rule: user.Replace},
			{who: "+alice/wx2", user: "a", rule: user.Replace},
		} {
			c.play(i, sc)
		}
		if len(c.open) != 3 {
			t.Errorf("%d of three sessions of one account are live", len(c.open))
		}
	})
}

// Bob's login has replaced Alice's. A directory that remembers openids itself would let her in
// silently, to the account that is Bob's now. She must log in with the phone button.
func TestReplacedOpenIDNeedsItsPhone(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for _, who := range []string{"alice", "bob"} {
			logIn(t, s, user.Binding{AppID: "wx1", OpenID: who, UserID: "u", PhoneAt: now}, user.Replace, now)
		}
		l := loginCommit(user.Binding{AppID: "wx1", OpenID: "alice", UserID: "u"}, user.Replace, newSession("u", "wx1", "alice", now))
		l.Phone = user.Phone{}
		if _, err := commit(t, s, l); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("silently: %v", err)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "alice", UserID: "u", PhoneAt: now}, user.Replace, now)
		l.Session, l.Code, l.Login = newSession("u", "wx1", "alice", now), [32]byte{7}, [32]byte{8}
		if _, err := commit(t, s, l); err != nil {
			t.Errorf("silently after a phone login: %v", err)
		}
	})
}

// A directory remembers Alice's account, and Bob has the number now. She comes to a mini program
// that she has not used before, so no openid was unbound there. Her unionid shows that she was put
// out elsewhere. Without one, Bob's phone login is reason enough to ask for hers. Bob himself gets
// in, and with the rule keep everybody does.
func TestRememberedAccountNeedsItsPhone(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		for name, c := range map[string]struct {
			logins []user.Binding
			who    user.Binding
			rule   user.NewOpenID
			want   error
		}{
			"replaced elsewhere": {
				[]user.Binding{{AppID: "wx1", OpenID: "alice", UnionID: "a"}, {AppID: "wx1", OpenID: "bob"}},
				user.Binding{AppID: "wx2", OpenID: "alice2", UnionID: "a"}, user.Replace, user.ErrUnknown,
			},
			"another one was replaced": {
				[]user.Binding{{AppID: "wx1", OpenID: "alice"}, {AppID: "wx1", OpenID: "bob"}},
				user.Binding{AppID: "wx2", OpenID: "alice2"}, user.Replace, user.ErrUnknown,
			},
			"never seen": {
				[]user.Binding{{AppID: "wx1", OpenID: "bob"}},
				user.Binding{AppID: "wx2", OpenID: "alice2"}, user.Replace, user.ErrUnknown,
			},
			"never seen, with keep": {
				[]user.Binding{{AppID: "wx1", OpenID: "bob"}},
				user.Binding{AppID: "wx2", OpenID: "alice2"}, user.Keep, nil,
			},
			"the new owner": {
				[]user.Binding{{AppID: "wx1", OpenID: "alice", UnionID: "a"}, {AppID: "wx1", OpenID: "bob", UnionID: "b"}},
				user.Binding{AppID: "wx2", OpenID: "bob2", UnionID: "b"}, user.Replace, nil,
			},
			"replaced, and back": {
				[]user.Binding{
					{AppID: "wx1", OpenID: "alice", UnionID: "a"}, {AppID: "wx1", OpenID: "bob"}, {AppID: "wx1", OpenID: "alice", UnionID: "a"},
				},
				user.Binding{AppID: "wx2", OpenID: "alice2", UnionID: "a"}, user.Replace, nil,
			},
			"nobody has logged in": {nil, user.Binding{AppID: "wx2", OpenID: "alice2"}, user.Replace, nil},
		} {
			t.Run(name, func(t *testing.T) {
				s := started(t, open)
				for _, table := range []string{"{sessions}", "{bindings}", "{former_openids}"} {
					execute(t, s, `DELETE FROM `+table)
				}
				for _, b := range c.logins {
					b.UserID, b.PhoneAt, b.AuthAt = "u", now, now
					logIn(t, s, b, c.rule, now)
				}
				c.who.UserID = "u"
				l := loginCommit(c.who, c.rule, newSession("u", c.who.AppID, c.who.OpenID, now))
				l.Phone = user.Phone{}
				if _, err := commit(t, s, l); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			})
		}
	})
}
