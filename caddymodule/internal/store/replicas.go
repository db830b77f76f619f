package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Replica is a process that has announced itself in the store.
type Replica struct {
	Name string
	// Seen is the time since the announcement, by the database's clock.
	Seen time.Duration
	// Keys are the ids of its encryption keys, newest first. They are not secret.
	Keys []string
	// Closes is set if the replica writes nothing to a closed store. Earlier versions write to it.
	Closes bool
}

// Has reports whether the replica has the key with this id.
func (r Replica) Has(id string) bool { return slices.Contains(r.Keys, id) }

const (
	// replicaPrefix starts the names of announcements in meta. The value is the time, in
	// milliseconds since 1970, and the keys' ids: "1790000000000 0a1b2c3d,4e5f6071".
	replicaPrefix = "replica "

	// ReplicaUp is how long a replica counts as running after an announcement.
	ReplicaUp = 2 * time.Minute
	// closesMark follows the key ids of a replica with Closes set. Earlier versions take it for the
	// id of a key.
	closesMark = "closes"

	// replicaForgotten is the age at which an announcement is deleted.
	replicaForgotten = time.Hour
)

// Announce records that the replica with this name is running, and which encryption keys it has, by
// the database's clock. Call it several times within ReplicaUp.
func (s *Store) Announce(ctx context.Context, name string) error {
	return s.sql.Change(evenIfMoved(ctx), "announcing a replica", sqldb.Again, sqldb.Light, func(t *sqldb.Tx) error {
		if err := s.db.sql.InPlace(); err != nil {
			return err
		}
		var now int64
		if err := t.Row(`SELECT {now}`).Scan(&now); err != nil {
			return err
		}
		value := fmt.Sprintf("%d %s", now, strings.Join(append(s.keys.Load().IDs(), closesMark), ","))
		_, err := t.Exec(`INSERT INTO {meta} (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			replicaPrefix+name, []byte(value))
		return err
	})
}

// Replicas lists the running replicas.
func (s *Store) Replicas(ctx context.Context) ([]Replica, error) {
	list, err := s.announced(ctx)
	if err != nil {
		return nil, err
	}
	var up []Replica
	for _, a := range list {
		if a.Seen <= ReplicaUp {
			up = append(up, a.Replica)
		}
	}
	return up, nil
}

// announcement is a replica's row in meta.
type announcement struct {
	Replica
	value []byte
}

func (s *Store) announced(ctx context.Context) (list []announcement, err error) {
	err = s.sql.Read(ctx, "reading the replicas", func(t *sqldb.Tx) error {
		list = nil
		return t.Each(func(r sqldb.Row) error {
			var name string
			var value []byte
			var now int64
			if err := r.Scan(&name, &value, &now); err != nil {
				return err
			}
			at, keys, _ := strings.Cut(string(value), " ")
			seen, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				return nil // the row is from another version
			}
			one := Replica{Name: strings.TrimPrefix(name, replicaPrefix), Seen: time.Duration(now-seen) * time.Millisecond}
			keys, one.Closes = strings.CutSuffix(keys, ","+closesMark)
			one.Keys = strings.Split(keys, ",")
			list = append(list, announcement{one, value})
			return nil
		}, `SELECT name, value, {now} FROM {meta} WHERE name LIKE ? ORDER BY name`, replicaPrefix+"%")
	})
	return list, err
}

// forgetReplicas deletes the announcements of replicas that stopped long ago.
func (s *Store) forgetReplicas(ctx context.Context) error {
	list, err := s.announced(ctx)
	if err != nil {
		return err
	}
	return s.forget(ctx, slices.DeleteFunc(list, func(a announcement) bool { return a.Seen < replicaForgotten }))
}

// forget deletes announcements, but not those that were renewed since they were read. Otherwise
// rekey would not notice that such a replica is running.
func (s *Store) forget(ctx context.Context, gone []announcement) error {
	if len(gone) == 0 {
		return nil
	}
	return s.sql.Rewrite(ctx, "forgetting replicas", func(t *sqldb.Tx) error {
		for _, a := range gone {
			if _, err := t.Exec(`DELETE FROM {meta} WHERE name = ? AND value = ?`, replicaPrefix+a.Name, a.value); err != nil {
				return err
			}
		}
		return nil
	})
}

// IDs returns the ids of the configured encryption keys, newest first. They are not secret.
func (k *Keys) IDs() []string {
	ids := make([]string, len(k.keys))
	for i, d := range k.keys {
		ids[i] = hex.EncodeToString(d.id[:])
	}
	return ids
}
