package caddymodule

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// appidForm and secretForm are the forms of WeChat's appids and AppSecrets. Simulators use other
// words. A secret with the form of an appid is always refused, because somebody has exchanged the
// two.
var (
	appidForm  = regexp.MustCompile(`^wx[0-9a-f]{16}$`)
	secretForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
	wordForm   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// resolveApps resolves the mini programs.
func (s *settings) resolveApps(h *Handler, look lookup) error {
	if len(h.Apps) == 0 {
		return misset("app", errors.New("there is no mini program: write `wx_auth <appid> <secret>`, such as `wx_auth {env.WX_APPID} {env.WX_SECRET}`; "+
			"if you wrote {$NAME}, that variable was empty when the Caddyfile was read"))
	}
	first := make(map[string]int)
	for i, a := range h.Apps {
		if a.ID == "" || a.Secret == "" {
			return missetAt("app", i, errors.New("both the appid and its secret are needed: app <appid> <secret>"))
		}
		// Two appids with the same text are one app, whatever a placeholder in them stands
		// for.
		if _, repeated := first[a.ID]; repeated {
			return missetAt("app", i, fmt.Errorf("the appid %s is given twice: keep one of them", a.ID))
		}
		first[a.ID] = i
		id, known, err := look(a.ID, syntax{})
		if err != nil {
			return missetAt("app", i, fmt.Errorf("the appid: %w", err))
		}
		if known {
			if !wordForm.MatchString(id) {
				return missetAt("app", i, errNoAppID)
			}
			if j, repeated := first[id]; repeated && j != i {
				return missetAt("app", i, fmt.Errorf("the appid %s is given twice: keep one of them", a.ID))
			}
			first[id] = i
		}
		secret, known, err := look(a.Secret, syntax{})
		if err != nil {
			return missetAt("app", i, fmt.Errorf("the secret: %w", err))
		}
		if known {
			if err := checkSecret(secret); err != nil {
				return missetAt("app", i, err)
			}
		}
		s.Apps = append(s.Apps, wechat.App{ID: id, Secret: secret})
		if err := s.resolveApp(i, a, id, look); err != nil {
			return err
		}
	}
	return nil
}

var (
	errNoAppID  = errors.New("that is not an appid: it is \"wx\" and 16 hexadecimal digits, without quotes, as WeChat's console shows it (Development → Development management)")
	errNoSecret = errors.New("that is not an AppSecret: it has 32 hexadecimal digits, without quotes, as WeChat's console shows it (Development → Development management)")
)

// checkOwnApps checks the mini programs of WeChat itself, which would answer with an error only to
// the first login. Errors do not contain the values, since they may have been exchanged.
func (s *settings) checkOwnApps() error {
	for i, a := range s.Apps {
		if s.WeChat.nameOf(a.ID) != wechat.Own {
			continue
		}
		var err error
		switch {
		case !appidForm.MatchString(a.ID):
			err = errNoAppID
		case !secretForm.MatchString(a.Secret):
			err = errNoSecret
		}
		if err != nil && len(s.Apps) > 1 { // this error has no line of a Caddyfile
			err = fmt.Errorf("app %d of %d: %w", i+1, len(s.Apps), err)
		}
		if err != nil {
			return missetAt("app", i, err)
		}
	}
	return nil
}

// resolveHosts resolves only which WeChat each app belongs to: a command needs no AppSecret.
func (s *settings) resolveHosts(h *Handler, look lookup) error {
	if h.WeChat != nil {
		if err := s.WeChat.resolveHosts(*h.WeChat, look); err != nil {
			return err
		}
	}
	for i, a := range h.Apps {
		id, _, err := look(a.ID, syntax{})
		if err != nil {
			return missetAt("app", i, err)
		}
		s.Apps = append(s.Apps, wechat.App{ID: id})
		if err := s.resolveAppAPIs(i, a, id, look); err != nil {
			return err
		}
	}
	return nil
}

// resolveApp resolves the block of the i-th app.
func (s *settings) resolveApp(i int, a App, id string, look lookup) error {
	if err := s.resolveAppAPIs(i, a, id, look); err != nil {
		return err
	}
	if a.Push == nil {
		return nil
	}
	switch a.Push.OnPhoneRevoked {
	case "", "detach":
	case "erase":
		s.EraseRevoked = append(s.EraseRevoked, id)
	default:
		return missetAt("app push on_phone_revoked", i, fmt.Errorf("%q is neither detach nor erase", a.Push.OnPhoneRevoked))
	}
	push, err := resolvePush(*a.Push, id, look)
	if err != nil {
		return missetAt("app push", i, err)
	}
	if push != nil {
		if s.Pushes == nil {
			s.Pushes = make(map[string]*wechat.PushReceiver)
		}
		s.Pushes[id] = push
	}
	return nil
}

// resolveAppAPIs resolves the i-th app's own hosts.
func (s *settings) resolveAppAPIs(i int, a App, id string, look lookup) error {
	apis, err := resolveAPIs(a.API, look)
	if err != nil {
		return missetAt("app api", i, err)
	}
	if len(apis) > 0 {
		if s.WeChat.AppAPIs == nil {
			s.WeChat.AppAPIs = make(map[string][]string)
		}
		s.WeChat.AppAPIs[id] = apis
	}
	return nil
}

// goodToken and goodKey stand in for the one of the two values that is not known yet, so that
// the other can be checked.
const (
	goodToken = "token"
	goodKey   = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

// resolvePush returns nil if the token or the key is not known yet.
func resolvePush(p Push, appid string, look lookup) (*wechat.PushReceiver, error) {
	token, tokenKnown, err := look(p.Token, syntax{})
	if err != nil {
		return nil, fmt.Errorf("the token: %w", err)
	}
	key, keyKnown, err := look(p.EncodingAESKey, syntax{})
	if err != nil {
		return nil, fmt.Errorf("the EncodingAESKey: %w", err)
	}
	if !tokenKnown {
		token = goodToken
	}
	if !keyKnown {
		key = goodKey
	}
	receiver, err := wechat.NewPushReceiver(appid, token, key)
	if !tokenKnown || !keyKnown {
		receiver = nil
	}
	return receiver, err
}

func checkSecret(secret string) error {
	switch {
	case appidForm.MatchString(secret):
		return errors.New("the secret looks like an appid: write the appid first, then the secret")
	case strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }):
		return errors.New("the secret holds a space, a line break or another character that no AppSecret has: copy it again from WeChat's console")
	}
	return nil
}
