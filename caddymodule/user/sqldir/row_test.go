package sqldir

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A database can return many types for a column. Each must result in the right user.
func TestColumnsMakeTheUser(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		columns string
		row     []any
		want    user.User
		refused bool
	}{
		"number":         {"id", []any{int64(42)}, user.User{ID: "42"}, false},
		"unsigned":       {"id", []any{uint64(1<<63 + 1)}, user.User{ID: "9223372036854775809"}, false},
		"text":           {"ID", []any{"m-1"}, user.User{ID: "m-1"}, false},
		"bytes":          {"Id", []any{[]byte("m-1")}, user.User{ID: "m-1"}, false},
		"NULL":           {"id", []any{nil}, user.User{}, true},
		"a fraction":     {"id", []any{4.5}, user.User{}, true},
		"a time":         {"id", []any{at}, user.User{}, true},
		"no id":          {"member_no", []any{int64(1)}, user.User{}, true},
		"two ids":        {"id ID", []any{int64(1), int64(2)}, user.User{}, true},
		"more":           {"id nick_name Points joined", []any{int64(1), []byte("安"), int64(7), at}, user.User{ID: "1", Info: map[string]any{"nick_name": "安", "Points": int64(7), "joined": "2026-03-01T12:00:00Z"}}, false},
		"NULL and bytes": {"id a b", []any{int64(1), nil, []byte{0xff, 'x'}}, user.User{ID: "1", Info: map[string]any{"a": nil, "b": "�x"}}, false},
		"claims":         {"id claims.Role CLAIMS.level claims.", []any{int64(1), "admin", int64(3), "x"}, user.User{ID: "1", Claims: map[string]any{"Role": "admin", "level": int64(3)}, Info: map[string]any{"claims.": "x"}}, false},
		"disabled":       {"id disabled", []any{int64(1), true}, user.User{ID: "1", Disabled: true}, false},
		"DISABLED":       {"id DISABLED", []any{int64(1), int64(1)}, user.User{ID: "1", Disabled: true}, false},
	} {
		l, err := layoutOf("find", strings.Fields(tc.columns))
		var got user.User
		if err == nil {
			got, err = l.user(tc.row)
		}
		if tc.want.Info == nil && len(got.Info) == 0 {
			got.Info = nil
		}
		if refused := errors.Is(err, user.ErrMisconfigured); refused != tc.refused || !refused && (err != nil || !reflect.DeepEqual(got, tc.want)) {
			t.Errorf("%s: %+v, %v; want %+v, refused %v", name, got, err, tc.want, tc.refused)
		}
	}
}

// A disabled user must stay out, however the operator's database writes true.
func TestDisabledIsReadAsDatabasesWriteIt(t *testing.T) {
	for _, v := range []any{true, int64(1), int64(-1), uint64(2), []byte{1}, []byte("1"), "t", "TRUE", "Y", "on", time.Now(), []byte("2026-03-01 12:00:00"), "2026-03-01", "2026-03-01 12:00:00.123"} {
		if yes, ok := truth(v); !yes || !ok {
			t.Errorf("%#v: %v, %v", v, yes, ok)
		}
	}
	for _, v := range []any{nil, false, int64(0), uint64(0), []byte{0}, []byte("0"), "", "f", "False", "N", "off", "0000-00-00 00:00:00"} {
		if yes, ok := truth(v); yes || !ok {
			t.Errorf("%#v: %v, %v", v, yes, ok)
		}
	}
	for _, v := range []any{"active", "banned", []byte("2"), 0.5, "2026-99-99"} {
		if _, ok := truth(v); ok {
			t.Errorf("%#v is accepted", v)
		}
	}
}
