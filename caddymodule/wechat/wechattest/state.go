package wechattest

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// savedState holds a simulator's apps, codes, tokens, used quotas and time. Faults and
// counts belong to one run and are not saved.
type savedState struct {
	Offset time.Duration `json:"offset"`
	Apps   []savedApp    `json:"apps"`
	Logins []savedLogin  `json:"logins"`
	Phones []*PhoneCode  `json:"phones"`
	Tokens []savedToken  `json:"tokens"`
}

type savedApp struct {
	App        App          `json:"app"`
	Stable     [2]string    `json:"stable"` // the current token and the previous one
	Classic    [2]string    `json:"classic"`
	LastForced time.Time    `json:"last_forced,omitzero"`
	Used       []savedUsage `json:"used"`
}

type savedUsage struct {
	Call   Call          `json:"call"`
	Window time.Duration `json:"window"`
	Since  int64         `json:"since"`
	Calls  int           `json:"calls"`
}

type savedLogin struct {
	Code   string    `json:"code"`
	AppID  string    `json:"appid"`
	User   string    `json:"user"`
	Minted time.Time `json:"minted"`
	Used   bool      `json:"used"`
}

type savedToken struct {
	Value      string    `json:"value"`
	AppID      string    `json:"appid"`
	Ends       time.Time `json:"ends"`
	Killed     bool      `json:"killed"`
	Superseded bool      `json:"superseded"`
}

// Save writes the apps, codes, tokens, used quotas and the offset of the clock, for
// [Simulator.Load] after a restart. Expired codes and tokens are left out. The output
// contains all secrets in plain text.
func (s *Simulator) Save(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	state := savedState{Offset: s.offset}
	for _, a := range s.apps {
		one := savedApp{App: a.App, Stable: a.stable.values(), Classic: a.classic.values(), LastForced: a.lastForced}
		for q, u := range a.used {
			one.Used = append(one.Used, savedUsage{q.call, q.window, u.window, u.calls})
		}
		state.Apps = append(state.Apps, one)
	}
	for code, c := range s.logins {
		if now.Before(c.minted.Add(codeLife)) {
			state.Logins = append(state.Logins, savedLogin{code, c.appid, c.user, c.minted, c.used})
		}
	}
	for _, p := range s.phoneOrder {
		if now.Before(p.Minted.Add(codeLife)) {
			state.Phones = append(state.Phones, p)
		}
	}
	for value, t := range s.tokens {
		if now.Before(t.ends) {
			state.Tokens = append(state.Tokens, savedToken{value, t.appid, t.ends, t.killed, t.superseded})
		}
	}
	return json.NewEncoder(w).Encode(state)
}

// Load restores the output of [Simulator.Save]. Apps that are registered already keep
// their settings, and get their tokens and used quotas back.
func (s *Simulator) Load(r io.Reader) error {
	var state savedState
	if err := json.NewDecoder(r).Decode(&state); err != nil {
		return fmt.Errorf("reading a simulator's state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = state.Offset
	for _, t := range state.Tokens {
		s.tokens[t.Value] = &accessToken{value: t.Value, appid: t.AppID, ends: t.Ends, killed: t.Killed, superseded: t.Superseded}
		s.keepSecret(t.Value)
	}
	for _, c := range state.Logins {
		s.logins[c.Code] = &loginCode{appid: c.AppID, user: c.User, minted: c.Minted, used: c.Used}
		s.keepSecret(c.Code)
	}
	for _, p := range state.Phones {
		s.phones[p.Code] = p
		s.phoneOrder = append(s.phoneOrder, p)
		s.keepSecret(p.Code)
		s.keepSecret(p.Phone.Number)
	}
	for _, one := range state.Apps {
		if s.apps[one.App.ID] == nil {
			if err := s.putApp(one.App); err != nil {
				return fmt.Errorf("reading a simulator's state: %w", err)
			}
		}
		app := s.apps[one.App.ID]
		app.stable, app.classic, app.lastForced = s.pair(one.Stable), s.pair(one.Classic), one.LastForced
		for _, u := range one.Used {
			app.used[quota{u.Call, u.Window}] = &usage{u.Since, u.Calls}
		}
	}
	return nil
}

func (p tokenPair) values() (v [2]string) {
	for i, t := range []*accessToken{p.current, p.previous} {
		if t != nil {
			v[i] = t.value
		}
	}
	return v
}

func (s *Simulator) pair(v [2]string) tokenPair { return tokenPair{s.tokens[v[0]], s.tokens[v[1]]} }
