package wechattest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// controlMux returns the control API, which the package's documentation describes.
func (s *Simulator) controlMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /_control/apps", posted(s.controlApp))
	mux.HandleFunc("POST /_control/codes", posted(s.controlCodes))
	mux.HandleFunc("POST /_control/faults", posted(s.controlFault))
	mux.HandleFunc("POST /_control/token", posted(s.controlToken))
	mux.HandleFunc("POST /_control/push", posted(s.controlPush))
	mux.HandleFunc("POST /_control/clock", posted(s.controlAdvance))
	mux.HandleFunc("GET /_control/clock", func(w http.ResponseWriter, _ *http.Request) {
		writeControl(w, http.StatusOK, s.clockAnswer())
	})
	mux.HandleFunc("GET /_control/counts", func(w http.ResponseWriter, _ *http.Request) {
		writeControl(w, http.StatusOK, s.Counts())
	})
	mux.HandleFunc("GET /_control/phonecodes", func(w http.ResponseWriter, _ *http.Request) {
		writeControl(w, http.StatusOK, s.PhoneCodes())
	})
	mux.HandleFunc("GET /_control/secrets", func(w http.ResponseWriter, _ *http.Request) {
		writeControl(w, http.StatusOK, s.Secrets())
	})
	mux.HandleFunc("DELETE /_control/counts", func(w http.ResponseWriter, _ *http.Request) {
		s.ResetCounts()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /_control/faults", func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// posted makes a handler of a function that gets a JSON body and returns the answer. The
// handler answers nil with 204.
func posted(do func(body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		var answer any
		if err == nil {
			answer, err = do(body)
		}
		switch {
		case err != nil:
			writeControl(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		case answer == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			writeControl(w, http.StatusOK, answer)
		}
	}
}

func (s *Simulator) controlApp(body []byte) (any, error) {
	var named struct {
		ID string `json:"appid"`
	}
	if err := json.Unmarshal(body, &named); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var app App
	if known := s.apps[named.ID]; known != nil {
		app = known.App.clone()
	}
	if err := decodeStrictly(body, &app); err != nil {
		return nil, err
	}
	return nil, s.putApp(app)
}

func (s *Simulator) controlCodes(body []byte) (any, error) {
	var want struct {
		AppID   string `json:"appid"`
		User    string `json:"user"`
		Phone   string `json:"phone"`
		Country string `json:"country"`
	}
	if err := decodeStrictly(body, &want); err != nil {
		return nil, err
	}
	var codes Codes
	var err error
	if want.Phone == "" {
		codes, err = s.MintLogin(want.AppID, want.User)
	} else {
		codes, err = s.Mint(want.AppID, want.User, Phone{want.Country, want.Phone})
	}
	if err != nil {
		return nil, err
	}
	return codes, nil
}

func (s *Simulator) controlFault(body []byte) (any, error) {
	var f Fault
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, err
	}
	return nil, s.Inject(f)
}

func (s *Simulator) controlPush(body []byte) (any, error) {
	var want struct {
		Push
		URL   string `json:"url"`
		Times int    `json:"times"`
	}
	if err := decodeStrictly(body, &want); err != nil {
		return nil, err
	}
	d, err := s.Deliver(want.Push)
	if err != nil {
		return nil, err
	}
	var answers []PushAnswer
	for range max(1, want.Times) {
		a, err := d.Send(context.Background(), want.URL)
		if err != nil {
			return nil, err
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func (s *Simulator) controlToken(body []byte) (any, error) {
	var want struct {
		AppID string `json:"appid"`
		Do    string `json:"do"`
	}
	if err := decodeStrictly(body, &want); err != nil {
		return nil, err
	}
	switch want.Do {
	case "revoke":
		return nil, s.RevokeTokens(want.AppID)
	case "rotate":
		return nil, s.RotateTokens(want.AppID)
	}
	return nil, fmt.Errorf(`"do" is %q, but must be "revoke" or "rotate"`, want.Do)
}

func (s *Simulator) controlAdvance(body []byte) (any, error) {
	var want struct {
		Advance string `json:"advance"`
	}
	if err := decodeStrictly(body, &want); err != nil {
		return nil, err
	}
	d, err := time.ParseDuration(want.Advance)
	if err != nil {
		return nil, err
	}
	s.Advance(d)
	return s.clockAnswer(), nil
}

func (s *Simulator) clockAnswer() any {
	return map[string]time.Time{"now": s.Now()}
}

func writeControl(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

// decodeStrictly decodes one JSON value and refuses members that the target does not have: a
// test with a misspelled member would test nothing.
func decodeStrictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}
