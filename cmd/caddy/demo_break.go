package main

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// serveSwitch answers the page's switches: each breaks something, or repairs it.
func (s *stage) serveSwitch(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Name  string
		On    bool
		Phone string // the number of the phone's user
	}
	if !readJSON(w, r, &want) {
		return
	}
	s.journal.add(event{Kind: "switch", Name: want.Name, On: want.On})
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	var err error
	switch want.Name {
	case "away":
		s.sim.ClearFaults()
		if want.On {
			err = s.sim.Inject(wechattest.Fault{Kind: wechattest.Status, Status: http.StatusBadGateway, Count: -1})
		}
	case "lost":
		s.mu.Lock()
		s.lost = want.On
		s.mu.Unlock()
	case "steal":
		err = s.steal(ctx)
	case "recycle":
		err = s.recycle(ctx, want.Phone)
	case "elsewhere":
		err = s.logoutElsewhere(ctx)
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// post sends a request that does not come from the phone.
func (s *stage) post(ctx context.Context, who, path, token string, body map[string]any) (session, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return session{}, err
	}
	return s.exchange(ctx, hop{who: who, method: http.MethodPost, path: path, header: bearer(token), body: content})
}

func (s *stage) exchange(ctx context.Context, h hop) (got session, err error) {
	a, err := s.send(ctx, h)
	if err != nil {
		return session{}, err
	}
	s.wrote(h, a, false)
	_ = json.Unmarshal(a.body, &got)
	return got, nil
}

func bearer(token string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h
}

// steal simulates a theft of the phone's refresh token. The thief refreshes twice and calls
// the API. From then on the phone's own refresh token is two behind, by which the gateway
// detects the theft.
func (s *stage) steal(ctx context.Context) error {
	s.mu.Lock()
	got := session{RefreshToken: s.refresh}
	s.mu.Unlock()
	for range 2 {
		var err error
		if got, err = s.post(ctx, "thief", "/auth/wx/refresh", "", map[string]any{"refreshToken": got.RefreshToken}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.stolen = &got
	s.mu.Unlock()
	_, err := s.exchange(ctx, hop{who: "thief", method: http.MethodGet, path: "/orders", header: bearer(got.Token)})
	return err
}

// thiefReturns tries the thief's tokens after the gateway has detected the theft.
func (s *stage) thiefReturns() {
	s.mu.Lock()
	stolen := s.stolen
	s.stolen = nil
	s.mu.Unlock()
	if stolen == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := s.exchange(ctx, hop{who: "thief", method: http.MethodGet, path: "/orders", header: bearer(stolen.Token)}); err == nil {
		_, _ = s.post(ctx, "thief", "/auth/wx/refresh", "", map[string]any{"refreshToken": stolen.RefreshToken})
	}
}

// recycle logs somebody else in with the number, from another WeChat account.
func (s *stage) recycle(ctx context.Context, number string) error {
	s.mu.Lock()
	owner := "owner-after-" + s.user()
	s.mu.Unlock()
	codes, err := s.sim.Mint(demoAppID, owner, wechattest.Phone{Number: number})
	if err != nil {
		return err
	}
	_, err = s.post(ctx, "owner", "/auth/wx", "", map[string]any{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": demoAppID})
	return err
}

// logoutElsewhere logs the same WeChat account in on another device, and logs out everywhere
// from there.
func (s *stage) logoutElsewhere(ctx context.Context) error {
	s.mu.Lock()
	user := s.user()
	s.mu.Unlock()
	codes, err := s.sim.MintLogin(demoAppID, user)
	if err != nil {
		return err
	}
	got, err := s.post(ctx, "other", "/auth/wx", "", map[string]any{"code": codes.Code, "appid": demoAppID})
	if err != nil {
		return err
	}
	_, err = s.post(ctx, "other", "/auth/wx/logout", got.Token, map[string]any{"all": true})
	return err
}
