package caddymodule

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// Two sites reach one database by two addresses, here by a link to its directory. Whom the one
// refuses could register at the other: that is logged, once.
func TestOneDatabaseByTwoAddresses(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(real, 0o700), os.Symlink(real, link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		register string
		lines    int
	}{{"register off", 1}, {"register on", 0}} {
		sites, err := provisionTogether(t, directive("sqlite:"+real+"/wx.db", c.register), directive("sqlite:"+link+"/wx.db"))
		if err != nil {
			t.Fatal(err)
		}
		core, logs := observer.New(zapcore.WarnLevel)
		sites[0].site.app.log = zap.New(core)
		for _, h := range slices.Concat(sites, sites) {
			if err := h.site.Open(t.Context(), openTimeout); err != nil {
				t.Fatal(err)
			}
		}
		if got := logs.FilterMessageSnippet("they differ in `register`").Len(); got != c.lines {
			t.Errorf("%s: %d lines, want %d: %v", c.register, got, c.lines, logs.All())
		}
	}
}
