package session

import (
	"encoding/hex"
	"slices"
	"time"
)

// TestLogin describes the site's test login: which of its sessions are good, and until when.
// The zero value accepts none.
type TestLogin struct {
	// Marks are the marks of good sessions: one for each key, newest first. New sessions
	// get the first one.
	Marks []string
	// Until is the time at which all these sessions end.
	Until time.Time
}

// markSize is the length of a mark before it is encoded, in bytes.
const markSize = 16

// Marks returns the marks of a test login, one for each key. whose identifies its secret and
// its user; a mark does not reveal it without the keys.
func (k Keys) Marks(whose []byte) (marks []string) {
	for _, key := range k.keys {
		marks = append(marks, hex.EncodeToString(key.mac(append([]byte("wx-auth test login "), whose...))[:markSize]))
	}
	return marks
}

// NewTest is [New] for a session of the site's test login.
func (ss Sessions) NewTest(s Session, now time.Time) Session {
	s.Test = ss.Test.Marks[0]
	s = New(s, ss.Settings, now)
	s.ExpiresAt = ss.expires(s, s.CreatedAt)
	return s
}

// accepts reports whether a session belongs to this test login, or is no test session.
func (t TestLogin) accepts(s Session) bool {
	return s.Test == "" || slices.Contains(t.Marks, s.Test)
}

// expires returns when a session ends that was last refreshed at this time.
func (ss Sessions) expires(s Session, refreshed time.Time) time.Time {
	at := ss.Settings.expires(s.CreatedAt, refreshed)
	if s.Test != "" && ss.Test.Until.Before(at) {
		return ss.Test.Until
	}
	return at
}
