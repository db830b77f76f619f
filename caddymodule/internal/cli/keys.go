package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// keyRecord is a signing key in JSON.
type keyRecord struct {
	ID         string          `json:"kid"`
	Algorithm  token.Algorithm `json:"algorithm"`
	Generation int64           `json:"generation,omitempty"`
	Use        token.Use       `json:"use"`
	SignsFrom  *time.Time      `json:"signsFrom,omitempty"`
	Until      *time.Time      `json:"until,omitempty"`
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Keys lists the signing keys of each store.
type Keys []map[string]any

// Add adds the keys of a store to the list for JSON, or writes them as a table at once.
func (list *Keys) Add(ctx context.Context, out Output, o *Store, now time.Time) error {
	infos, err := o.signingKeys(ctx, now)
	if err != nil {
		return err
	}
	if out.JSON {
		records := []keyRecord{}
		for _, k := range infos {
			records = append(records, keyRecord{k.ID, k.Algorithm, k.Generation, k.Use, pointer(k.SignsFrom), pointer(k.Retired)})
		}
		for _, ks := range o.Static {
			for _, id := range ks.IDs() {
				records = append(records, keyRecord{ID: id, Use: token.Signs})
			}
		}
		*list = append(*list, map[string]any{"store": o.Name, "keys": records})
		return nil
	}
	fmt.Fprintln(out, o.Name)
	if len(o.Rings) == 0 {
		fmt.Fprintln(out, "The key that signs is in the configuration (token { key … }); none is generated.")
		return nil
	}
	var rows [][]string
	for _, k := range infos {
		rows = append(rows, []string{k.ID, string(k.Algorithm), strconv.FormatInt(k.Generation, 10), string(k.Use), moment(k.SignsFrom), moment(k.Retired)})
	}
	for _, ks := range o.Static {
		for _, id := range ks.IDs() {
			rows = append(rows, []string{id, "", "", string(token.Signs), "", ""})
		}
	}
	return out.table("KID | ALGORITHM | GENERATION | USE | SIGNS FROM | UNTIL", rows)
}

// Write writes the list as JSON.
func (list Keys) Write(out Output) error {
	if !out.JSON {
		return nil
	}
	return out.json(map[string]any{"stores": list})
}

func (o *Store) signingKeys(ctx context.Context, now time.Time) (list []token.KeyInfo, err error) {
	for i, ring := range o.Rings {
		keys, err := token.Survey(ctx, o.Store, ring, now)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if k.Algorithm != ring.Algorithm && (i > 0 || o.hasRing(k.Algorithm)) {
				continue // listed with its own ring, or with the first one
			}
			list = append(list, k)
		}
	}
	return list, nil
}

func (o *Store) hasRing(alg token.Algorithm) bool {
	for _, r := range o.Rings {
		if r.Algorithm == alg {
			return true
		}
	}
	return false
}

// RotateKeys generates the next key of each ring, and returns the number of rings.
func (o *Store) RotateKeys(ctx context.Context, out Output, now time.Time) (rings int, err error) {
	fmt.Fprintln(out, o.Name)
	for _, ring := range o.Rings {
		next, stored, err := token.Rotate(ctx, o.Store, ring, now)
		if err != nil {
			return rings, err
		}
		rings++
		fmt.Fprintln(out, rotation(next, stored))
	}
	return rings, nil
}

func rotation(next token.KeyInfo, stored bool) string {
	name := fmt.Sprintf("%s key %s", next.Algorithm, next.ID)
	switch {
	case next.Use == token.Signs:
		return name + ": the first one. It signs from now on."
	case stored:
		return fmt.Sprintf("%s: published, signs from %s.", name, moment(next.SignsFrom))
	}
	return fmt.Sprintf("%s: published already, signs from %s. There is nothing to do.", name, moment(next.SignsFrom))
}

// DropKey deletes a compromised key. found is false if the store does not have it.
func (o *Store) DropKey(ctx context.Context, out Output, kid string, now time.Time) (found bool, err error) {
	if len(o.Rings) == 0 {
		return false, nil
	}
	dropped, replacements, err := token.Drop(ctx, o.Store, o.Rings, kid, now)
	if errors.Is(err, token.ErrUnknownKey) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	fmt.Fprintf(out, "%s\n%s key %s is deleted.", o.Name, dropped.Algorithm, dropped.ID)
	for _, k := range replacements {
		fmt.Fprintf(out, " %s key %s signs from now on.", k.Algorithm, k.ID)
	}
	fmt.Fprintln(out)
	if dropped.Use != token.Next && dropped.Use != token.Over {
		fmt.Fprintln(out, "Within a minute, each replica refuses the tokens that it signed. Clients then refresh, and sessions stay open.")
		fmt.Fprintln(out, "Backends that verify tokens themselves accept them until they read the JWKS again, within five minutes.")
	}
	return true, nil
}
