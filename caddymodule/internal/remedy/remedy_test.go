package remedy

import (
	"errors"
	"fmt"
	"testing"

	"go.uber.org/zap/zapcore"
)

// moved is an error that knows what to do, and where that is described.
type moved struct{ error }

func (moved) Remedy() string   { return "use the new store" }
func (moved) Heading() Heading { return StoreMoved }

// A line about any failure of the store leads to the heading of this failure, if the error
// knows it, however deep it is wrapped.
func TestErrorDecidesTheHeading(t *testing.T) {
	for _, c := range []struct {
		err         error
		remedy, see string
	}{
		{nil, "check it", "docs/troubleshooting.md#the-store-is-away"},
		{errors.New("reset"), "check it", "docs/troubleshooting.md#the-store-is-away"},
		{fmt.Errorf("a login: %w", moved{errors.New("closed")}), "use the new store", "docs/troubleshooting.md#the-store-was-moved"},
	} {
		enc := zapcore.NewMapObjectEncoder()
		StoreAway.Of(c.err, "check it").AddTo(enc)
		if enc.Fields["remedy"] != c.remedy || enc.Fields["see"] != c.see || len(enc.Fields) != 2 {
			t.Errorf("%v: %v", c.err, enc.Fields)
		}
	}
}
