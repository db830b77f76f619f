package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// place is where a sealed value lies. It is authenticated with the value, so
// one that is copied to another row, column or table does not open there.
// Names are those of this package, without the configured prefix.
type place struct{ table, column, row string }

// aad writes the parts behind their lengths: no two places give the same bytes.
func (p place) aad() []byte {
	var out []byte
	for _, part := range []string{p.table, p.column, p.row} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}

// sealVersion starts every sealed value: version, key id, nonce, ciphertext
// (AES-256-GCM).
const sealVersion = 1

// seal encrypts value for the place with the newest key.
func (k *Keys) seal(p place, value []byte) []byte {
	d := k.keys[0]
	out := append([]byte{sealVersion}, d.id[:]...)
	return d.atRest.Seal(out, nil, value, p.aad())
}

var errSealed = errors.New("a sealed value does not open: it was changed, or moved from another place")

// open decrypts what seal made, with whichever key sealed it.
func (k *Keys) open(p place, sealed []byte) ([]byte, error) {
	const head = 1 + len(derived{}.id)
	if len(sealed) < head || sealed[0] != sealVersion {
		return nil, fmt.Errorf("%s.%s: %w", p.table, p.column, errSealed)
	}
	for _, d := range k.keys {
		if d.id != [4]byte(sealed[1:head]) {
			continue
		}
		value, err := d.atRest.Open(nil, nil, sealed[head:], p.aad())
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", p.table, p.column, errSealed)
		}
		return value, nil
	}
	return nil, fmt.Errorf("%s.%s: %w: the value was sealed with a key that is not configured", p.table, p.column, ErrKey)
}
