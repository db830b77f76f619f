package caddymodule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parser reads one directive by the table of its subdirectives. It knows only the syntax; the
// settings check the values. marks records the line of each value, for the errors of the
// settings.
type parser struct {
	marks map[place]*caddyfile.Dispenser
	start *caddyfile.Dispenser
}

func newParser() *parser { return &parser{marks: make(map[place]*caddyfile.Dispenser)} }

// begin moves d to the directive's name.
func (p *parser) begin(d *caddyfile.Dispenser) error {
	if !d.Next() {
		return d.EOFErr()
	}
	start := *d
	p.start = &start
	return nil
}

// locate adds a line of the Caddyfile to the error of a setting: the setting's own line, or
// the directive's if the setting is not written there.
func (p *parser) locate(err error) error {
	var se *settingError
	if !errors.As(err, &se) {
		return err
	}
	if d, ok := p.marks[se.place]; ok {
		return d.WrapErr(err)
	}
	return p.start.WrapErr(err)
}

// subdirective is one line, or block, of the syntax.
type subdirective struct {
	name string
	// usage names the arguments, for the error of a wrong line.
	usage string
	// least and most bound the number of arguments. A negative most means any number.
	least, most int
	// count is set if the subdirective may be repeated. It returns how many values it has
	// stored so far.
	count func() int
	// set stores the arguments.
	set func(args []string) error
	// block lists the subdirectives that may stand in braces after the arguments.
	block []subdirective
	// parse is set for a subdirective with a syntax of its own. It reads the whole segment.
	parse func(d *caddyfile.Dispenser) error
}

// one is a subdirective with one argument.
func one(name, usage string, set func([]string) error) subdirective {
	return subdirective{name: name, usage: usage, least: 1, most: 1, set: set}
}

// many is a subdirective with one or more arguments.
func many(name, usage string, set func([]string) error) subdirective {
	return subdirective{name: name, usage: usage, least: 1, most: -1, set: set}
}

func (s subdirective) repeated(count func() int) subdirective {
	s.count = count
	return s
}

// block returns a subdirective whose settings are in its block. If the Caddyfile has it, *into
// becomes value, which the subdirectives fill.
func block[T any](name string, into **T, value *T, in ...subdirective) subdirective {
	return subdirective{name: name, usage: "{ … }, with its settings in the block", block: in, set: func([]string) error {
		*into = value
		return nil
	}}
}

// segment reads the arguments and the block of s, whose name is d's current token. name is the
// full name, with the names of the blocks around it, and which is the index of the innermost
// of these blocks.
func (p *parser) segment(d *caddyfile.Dispenser, name string, which int, s subdirective) error {
	if s.parse != nil {
		return s.parse(d)
	}
	args := d.RemainingArgs()
	if len(args) < s.least || (s.most >= 0 && len(args) > s.most) {
		return d.Errf("%s: wrong number of arguments: write %s", name, strings.TrimSpace(s.name+" "+s.usage))
	}
	if s.set != nil {
		if err := s.set(args); err != nil {
			return d.Errf("%s: %w", name, err)
		}
	}
	if s.block == nil {
		if d.NextBlock(0) {
			return d.Errf("%s takes no block: write %s", name, strings.TrimSpace(s.name+" "+s.usage))
		}
		return nil
	}
	if s.count != nil {
		which = s.count() - 1
	}
	return p.block(d, name, which, s.block)
}

// block reads the subdirectives in the braces that follow d. which is the block's index among
// the blocks of this name.
func (p *parser) block(d *caddyfile.Dispenser, within string, which int, known []subdirective) error {
	prefix := ""
	if within != "wx_auth" {
		prefix = within + " "
	}
	for d.NextBlock(0) {
		at := d.NewFromNextSegment()
		at.Next()
		line := *at
		name := prefix + at.Val()
		s, ok := find(known, at.Val())
		if !ok {
			return at.Errf("unknown subdirective %q: %s knows %s", at.Val(), within, namesOf(known))
		}
		first := place{name, which}
		if s.count == nil {
			if before := p.marks[first]; before != nil {
				return at.Errf("%s is given twice, first at %s:%d: keep one of them", name, before.File(), before.Line())
			}
			p.marks[first] = &line
		} else {
			first.index = s.count()
		}
		if err := p.segment(at, name, which, s); err != nil {
			return err
		}
		if s.count != nil {
			for ; first.index < s.count(); first.index++ {
				p.marks[first] = &line
			}
		}
	}
	return nil
}

func find(known []subdirective, name string) (subdirective, bool) {
	for _, s := range known {
		if s.name == name {
			return s, true
		}
	}
	return subdirective{}, false
}

func namesOf(known []subdirective) string {
	list := make([]string, len(known))
	for i, s := range known {
		list[i] = s.name
	}
	return strings.Join(list, ", ")
}

var errEmpty = errors.New("the value is empty: write one, or leave the line out for the default")

// text stores one argument as it is.
func text(into *string) func([]string) error {
	return func(args []string) error {
		if args[0] == "" {
			return errEmpty
		}
		*into = args[0]
		return nil
	}
}

// list stores all arguments as they are.
func list(into *[]string) func([]string) error {
	return func(args []string) error {
		*into = args
		return nil
	}
}

// onOff stores a switch.
func onOff(into **bool) func([]string) error {
	return func(args []string) error {
		if err := noPlaceholder(args[0]); err != nil {
			return err
		}
		on := args[0] == "on"
		if !on && args[0] != "off" {
			return fmt.Errorf("%q is neither on nor off", args[0])
		}
		*into = &on
		return nil
	}
}

// duration stores a duration greater than zero.
func duration(into *caddy.Duration) func([]string) error {
	return func(args []string) error {
		d, err := parseDuration(args[0])
		*into = caddy.Duration(d)
		return err
	}
}

// sessions stores a number of sessions.
func sessions(into **int) func([]string) error {
	return func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 || n > mostSessions {
			return fmt.Errorf("%q is not a number of sessions: use 1 to %d, such as %d; leave the line out for %d", args[0], mostSessions, defaultMax, defaultMax)
		}
		*into = &n
		return nil
	}
}

// durationOrZero stores a duration that may be zero.
func durationOrZero(into **caddy.Duration) func([]string) error {
	return func(args []string) error {
		var d time.Duration
		if args[0] != "0" && args[0] != "0s" {
			var err error
			if d, err = parseDuration(args[0]); err != nil {
				return err
			}
		}
		set := caddy.Duration(d)
		*into = &set
		return nil
	}
}

func parseDuration(text string) (time.Duration, error) {
	if err := noPlaceholder(text); err != nil {
		return 0, err
	}
	d, err := caddy.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write a number and a unit, such as 90s, 15m, 12h or 90d", text)
	}
	if d <= 0 {
		return 0, fmt.Errorf("%q is not a valid time: it must be greater than zero; leave the line out for the default", text)
	}
	return d, nil
}

// rate stores a number per unit of time, such as 30/m.
func rate(into **Rate) func([]string) error {
	return func(args []string) error {
		if err := noPlaceholder(args[0]); err != nil {
			return err
		}
		number, unit, _ := strings.Cut(args[0], "/")
		per, ok := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day}[unit]
		count, err := strconv.Atoi(number)
		if !ok || err != nil || count < 1 {
			return fmt.Errorf("%q is not a rate: write a number, a slash and s, m, h or d, such as 30/m", args[0])
		}
		*into = &Rate{Count: count, Per: caddy.Duration(per)}
		return nil
	}
}

// silentLogin stores "off" or a maximum age.
func silentLogin(into **SilentLogin) func([]string) error {
	return func(args []string) error {
		if args[0] == "off" {
			*into = &SilentLogin{Off: true}
			return nil
		}
		age, err := parseDuration(args[0])
		if err != nil {
			return fmt.Errorf("%w (or: silent_login off)", err)
		}
		*into = &SilentLogin{MaxAge: caddy.Duration(age)}
		return nil
	}
}

// testLogin stores a test login. Its third argument must be the word "until".
func testLogin(into **TestLogin) func([]string) error {
	return func(args []string) error {
		if args[2] != "until" {
			return fmt.Errorf("the date comes after the word until, such as until 2026-12-31; this is %q", args[2])
		}
		*into = &TestLogin{Secret: args[0], Phone: args[1], Until: args[3]}
		return nil
	}
}

// requirement separates paths from the field and the values that follow them.
func requirement(args []string) Requirement {
	for i, a := range args {
		if a == "" || a[0] != '/' {
			return Requirement{Paths: args[:i:i], Field: a, Values: args[i+1:]}
		}
	}
	return Requirement{Paths: args}
}

// rule separates methods from the paths that follow them.
func rule(args []string) Rule {
	for i, a := range args {
		if a == "" || a[0] == '/' || a[0] == '*' {
			return Rule{Methods: args[:i:i], Paths: args[i:]}
		}
	}
	return Rule{Methods: args}
}
