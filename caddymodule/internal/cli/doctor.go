package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Doctor checks an installation, and collects the findings.
type Doctor struct {
	Findings []Finding
}

// Finding is the result of one check.
type Finding struct {
	// Check is the kind of check, such as "store". Subject is what was checked.
	Check   string `json:"check"`
	Subject string `json:"subject,omitempty"`
	State   State  `json:"state"`
	// Text describes what was found. Remedy says what to do about it.
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// State is the severity of a finding.
type State string

const (
	Fine  State = "ok"
	Wrong State = "wrong"
	// Note marks a finding of which only the operator knows whether it is right.
	Note State = "note"
)

// Add adds a finding.
func (d *Doctor) Add(f Finding) { d.Findings = append(d.Findings, f) }

// Write writes the findings, one line each. It returns an error if something is wrong.
func (d *Doctor) Write(out Output) error {
	wrong := 0
	for _, f := range d.Findings {
		if f.State == Wrong {
			wrong++
		}
	}
	if out.JSON {
		if err := out.json(map[string]any{"ok": wrong == 0, "checks": d.Findings}); err != nil {
			return err
		}
	} else {
		for _, f := range d.Findings {
			fmt.Fprintln(out, f)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d findings are wrong", wrong)
	}
	return nil
}

// String returns the finding as one line.
func (f Finding) String() string {
	text := f.Text
	if f.Subject != "" {
		text = f.Subject + ": " + text
	}
	if f.Remedy != "" {
		text += " → " + f.Remedy
	}
	return fmt.Sprintf("%-5s  %-13s  %s", f.State, f.Check, visible(strings.Join(strings.Fields(text), " ")))
}

// failed adds an error as a finding. If the error has no remedy of its own, it gets the given one.
func (d *Doctor) failed(check, subject string, err error, remedy string) {
	text := err.Error()
	var r interface{ Remedy() string }
	if errors.As(err, &r) {
		remedy = r.Remedy()
		text = strings.TrimSuffix(text, ": "+remedy)
	}
	d.Add(Finding{check, subject, Wrong, text, remedy})
}

// unset begins the default values of the variables that Caddyfile.example requires. No real URL
// begins with it.
const unset = "set://"

// Configuration adds the finding about a directive of the configuration.
func (d *Doctor) Configuration(subject string, err error) {
	if err != nil {
		remedy := "fix the line; `caddy validate` checks the rest of the configuration"
		switch {
		case errors.Is(err, fs.ErrNotExist):
			remedy = "the file is missing: put it in its place, or correct its path, in --config, --envfile or the configuration"
		case strings.Contains(err.Error(), unset):
			remedy = "set the variable that is named after set://, as for Caddy itself: use --envfile, or its environment"
		}
		d.failed("configuration", subject, err, remedy)
		return
	}
	d.Add(Finding{Check: "configuration", Subject: subject, State: Fine, Text: "it can be used"})
}

// Store checks that a store can be written, and compares the clocks. opened is the error from
// opening the store, if any. offset is the database's clock minus ours.
func (d *Doctor) Store(ctx context.Context, o *Store, opened error, offset time.Duration) {
	if opened != nil {
		d.failed("store", o.Name, opened, cmp.Or(o.Remedy(opened), "check that the database runs and can be reached from here, and its address in `store`"))
		return
	}
	if err := o.Probe(ctx); err != nil {
		d.failed("store", o.Name, err, "let the user that runs Caddy write to it; check whether the disk is full")
		return
	}
	survey, err := o.Survey(ctx)
	if err != nil {
		d.failed("store", o.Name, err, "see the error")
		return
	}
	d.Add(Finding{Check: "store", Subject: o.Name, State: Fine,
		Text: fmt.Sprintf("a write succeeded; schema %d, %s users, %s openids", survey.Schema, counted(survey.Users), counted(survey.OpenIDs))})
	d.clock("the database's", offset)
}

func counted(n int) string {
	if n >= store.SurveyLimit {
		return fmt.Sprintf("%d or more", n)
	}
	return fmt.Sprint(n)
}

// clock compares our clock with another one.
func (d *Doctor) clock(whose string, offset time.Duration) {
	f := Finding{Check: "clock", Subject: whose, State: Fine, Text: "it differs from ours by " + offset.Abs().Round(time.Second).String()}
	if offset.Abs() > clock.Bound {
		f.State = Wrong
		f.Text += ": tokens expire too early or too late, and housekeeping stops"
		f.Remedy = "synchronize the clock of this machine with NTP (chronyc tracking, timedatectl); if it is right, that of the other machine"
	}
	d.Add(f)
}

// WeChat makes a call that changes nothing. It checks that WeChat can be reached, and accepts the
// app's secret and our address.
func (d *Doctor) WeChat(ctx context.Context, client *wechat.Client, app wechat.App, now func() time.Time) {
	asked := now()
	date, err := client.Probe(ctx, app)
	took := now().Sub(asked)
	if !date.IsZero() {
		// The header Date is truncated to whole seconds.
		offset := date.Add(500 * time.Millisecond).Sub(asked.Add(took / 2))
		d.clock("WeChat's", offset)
	}
	d.wechat(app, err, "WeChat answers, and accepts the secret and our address")
}

// ExternalToken checks that the operator's own service has an access token for an app.
func (d *Doctor) ExternalToken(ctx context.Context, client *wechat.Client, app wechat.App) {
	d.wechat(app, client.WarmToken(ctx, app), "the external source has an access token")
}

func (d *Doctor) wechat(app wechat.App, err error, good string) {
	if err == nil {
		d.Add(Finding{Check: "wechat", Subject: app.ID, State: Fine, Text: good})
		return
	}
	remedy := "check DNS, the firewall and the outgoing internet connection of this machine; then try again"
	text := err.Error()
	var e *wechat.Error
	if errors.As(err, &e) {
		remedy = cmp.Or(e.Advice, remedy)
		if e.IP != "" {
			text += "; WeChat sees us as " + e.IP
		}
	}
	d.Add(Finding{"wechat", app.ID, Wrong, text, remedy})
}

// Users adds the finding about an external directory of users.
func (d *Doctor) Users(name string, err error) {
	if err != nil {
		d.failed("users", name, err, "check that the directory runs, and its line in the configuration")
		return
	}
	d.Add(Finding{Check: "users", Subject: name, State: Fine, Text: "the external directory is usable"})
}

// Proxies describes which proxies a server of the configuration trusts.
type Proxies struct {
	Server string
	// Ranges are the trusted networks. Trusted is set if there are any, or if another source lists
	// them.
	Ranges          []string
	Trusted, Strict bool
}

// Proxies checks whether a client can forge its address. login_rate counts by this address.
func (d *Doctor) Proxies(p Proxies) {
	f := Finding{Check: "proxies", Subject: "server " + p.Server, State: Fine, Text: "trusted_proxies is strict"}
	everybody := ""
	for _, r := range p.Ranges {
		if prefix, err := netip.ParsePrefix(r); err == nil && prefix.Bits() == 0 {
			everybody = r
		}
	}
	switch {
	case everybody != "":
		f.State, f.Text = Wrong, "trusted_proxies has "+everybody+", so every client can claim any address, and escape every limit"
		f.Remedy = "name the networks of your proxies only, such as private_ranges"
	case !p.Trusted:
		f.State, f.Text = Note, "there is no trusted_proxies, which is right if clients connect to Caddy directly"
		f.Remedy = "behind a load balancer write servers { trusted_proxies static private_ranges, and in the next line trusted_proxies_strict } in the global options"
	case !p.Strict:
		f.State, f.Text = Wrong, "trusted_proxies is not strict, so a client can claim any address, and escape every limit"
		f.Remedy = "add trusted_proxies_strict in servers { } of the global options"
	}
	d.Add(f)
}

// SecretFile checks that only the owner and the group of a file with secrets can read it. It skips
// a file that does not exist.
func (d *Doctor) SecretFile(what, path string) {
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS == "windows" {
		return
	}
	f := Finding{"file", path, Fine, fmt.Sprintf("%s has mode %04o", what, info.Mode().Perm()), ""}
	if info.Mode().Perm()&0o006 != 0 && reachable(path) {
		f.State, f.Remedy = Wrong, "chmod 600 "+path+" (or 640, if a group may read it)"
		f.Text += ": every user of this machine can use it"
	}
	d.Add(f)
}

// reachable reports whether other users can reach a file, because each directory above it lets them
// through. The secrets of a container do not count: they are readable by all users, but the
// container has no others.
func reachable(path string) bool {
	path, err := filepath.Abs(path)
	if err != nil || strings.HasPrefix(path, "/run/secrets/") || strings.HasPrefix(path, "/var/run/secrets/") {
		return false
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// Literal adds the finding about a secret that is written in the configuration itself.
func (d *Doctor) Literal(name string) {
	d.Add(Finding{"secret", name, Wrong, "it is written in the configuration, which is copied to backups and version control, and is shown by the admin endpoint",
		"write {env.NAME} or {file./absolute/path} instead, and change the secret if others have seen it"})
}

// NoLiterals adds the finding that there is no such secret.
func (d *Doctor) NoLiterals() {
	d.Add(Finding{Check: "secret", State: Fine, Text: "no secret is written in the configuration itself"})
}
