package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// place is the location of a sealed value. It is authenticated with the value, so a value that is
// copied to another row, column or table cannot be opened there. The names are those of this
// package, without the configured prefix.
type place struct{ table, column, row string }

// aad returns the place as authenticated data. It writes the length before each part, so that no
// two places have the same bytes.
func (p place) aad() []byte {
	var out []byte
	for _, part := range []string{p.table, p.column, p.row} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}

// sealVersion starts every sealed value: version, key id, nonce, ciphertext (AES-256-GCM).
const sealVersion = 1

// seal encrypts a value for a place with the newest key.
func (k *Keys) seal(p place, value []byte) []byte {
	d := k.keys[0]
	out := append([]byte{sealVersion}, d.id[:]...)
	return d.atRest.Seal(out, nil, value, p.aad())
}

var errSealed = errors.New("a sealed value cannot be opened: it was changed, or copied from another row or column")

// open decrypts a value with the key that sealed it.
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
