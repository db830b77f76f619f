package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// keptEvents bounds how many past events a page receives when it is opened.
const keptEvents = 300

// event is an entry of the journal that the demo's page shows. It holds no code and no token:
// the page decodes the token that its own phone received.
type event struct {
	N    int       `json:"n"`
	At   time.Time `json:"at"`
	Kind string    `json:"kind"` // start, request, answer, wechat, api, wx or switch
	// Of is the number of the request that a request, answer, wechat or api event belongs to.
	Of      int64             `json:"of,omitempty"`
	Who     string            `json:"who,omitempty"`  // phone, other, thief or owner
	Name    string            `json:"name,omitempty"` // of a switch, or of a call on the phone
	On      bool              `json:"on,omitempty"`
	Method  string            `json:"method,omitempty"`
	Path    string            `json:"path,omitempty"`
	Status  int               `json:"status,omitempty"`
	Outcome string            `json:"outcome,omitempty"` // a problem's code, or the result of WeChat's call
	Millis  float64           `json:"ms,omitempty"`
	Lost    bool              `json:"lost,omitempty"`
	Body    any               `json:"body,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// journal holds the latest events and hands them to every page that is open.
type journal struct {
	mu     sync.Mutex
	last   int
	events []event
	more   chan struct{} // closed by the next event
}

func newJournal() *journal { return &journal{more: make(chan struct{})} }

func (j *journal) add(e event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	e.N, e.At = j.last, time.Now()
	j.events = append(j.events, e)
	if len(j.events) > keptEvents {
		j.events = slices.Delete(j.events, 1, 2) // the first event names the phone's owner
	}
	close(j.more)
	j.more = make(chan struct{})
}

// restart replaces all events by a first one.
func (j *journal) restart(e event) {
	j.mu.Lock()
	j.events = nil
	j.mu.Unlock()
	j.add(e)
}

func (j *journal) after(n int) (found []event, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.events {
		if e.N > n {
			found = append(found, e)
		}
	}
	return found, j.more
}

// ServeHTTP streams the events as they happen, as a text/event-stream.
func (j *journal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	for {
		events, more := j.after(last)
		for _, e := range events {
			text, err := json.Marshal(e)
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.N, text); err != nil {
				return
			}
			last = e.N
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}
