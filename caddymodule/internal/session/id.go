package session

import (
	"crypto/rand"
	"encoding/hex"
	"time"
)

// NewID makes a UUID of version 7 (RFC 9562, section 5.7) from the clock and 74 random
// bits. Later ids sort after earlier ones, which keeps the indexes of a database
// compact.
func NewID(now time.Time) string {
	var id sid
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // RFC 9562's variant
	return id.String()
}

// sid is a session id in 16 bytes.
type sid [16]byte

// parseID reads the text form of a session id. It accepts no other spelling of it.
func parseID(text string) (id sid, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return sid{}, false
	}
	at := 0
	for i := range id {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		hi, lo := nibble[text[at]], nibble[text[at+1]]
		if hi|lo > 0x0f {
			return sid{}, false
		}
		id[i] = hi<<4 | lo
		at += 2
	}
	return id, true
}

// nibble maps each lower-case hexadecimal digit to its value, and every other byte to
// 0xff.
var nibble = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
	}
	return t
}()

func (id sid) String() string {
	var b [36]byte
	hex.Encode(b[:8], id[:4])
	b[8] = '-'
	hex.Encode(b[9:13], id[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], id[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], id[8:10])
	b[23] = '-'
	hex.Encode(b[24:], id[10:])
	return string(b[:])
}
