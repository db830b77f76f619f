package caddymodule

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parser reads one wx_auth directive. It knows the syntax; what the values may
// be is for the settings to say, and marks tells them the lines.
type parser struct {
	h     *Handler
	marks map[place]*caddyfile.Dispenser
	start *caddyfile.Dispenser
}

// mark is where a place stands in the Caddyfile; the directive itself for what
// is not there.
func (p *parser) mark(at place) *caddyfile.Dispenser {
	if d, ok := p.marks[at]; ok {
		return d
	}
	return p.start
}

// subdirective is one line, or block, of the syntax.
type subdirective struct {
	name string
	// usage is what follows the name, for those who got it wrong.
	usage string
	// least and most bound the number of arguments; most < 0: any number.
	least, most int
	// count is set for what may be given more than once: of how many values
	// there are so far.
	count func() int
	// set takes the arguments.
	set func(args []string) error
	// block is what may stand in braces after the arguments.
	block []subdirective
	// parse is set for what has a syntax of its own. It takes the whole segment.
	parse func(d *caddyfile.Dispenser) error
}

// segment reads the arguments and the block of s, on which d stands. name is
// the whole name, with that of the block around it.
func (p *parser) segment(d *caddyfile.Dispenser, name string, s subdirective) error {
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
	which := 0
	if s.count != nil {
		which = s.count() - 1
	}
	return p.block(d, name, which, s.block)
}

// block reads the subdirectives in braces, which d is before. which one it is of
// the blocks of this name tells their places apart.
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
			return at.Errf("unknown subdirective %q: %s knows %s", at.Val(), within, names(known))
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
		if err := p.segment(at, name, s); err != nil {
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

func names(known []subdirective) string {
	list := make([]string, len(known))
	for i, s := range known {
		list[i] = s.name
	}
	return strings.Join(list, ", ")
}

// text takes one argument as it is.
func text(into *string) func([]string) error {
	return func(args []string) error {
		if args[0] == "" {
			return errEmpty
		}
		*into = args[0]
		return nil
	}
}

// list takes all arguments as they are.
func list(into *[]string) func([]string) error {
	return func(args []string) error {
		*into = args
		return nil
	}
}

// onOff takes a switch.
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

// duration takes a time over zero.
func duration(into *caddy.Duration) func([]string) error {
	return func(args []string) error {
		d, err := parseDuration(args[0])
		*into = caddy.Duration(d)
		return err
	}
}

// sessions takes a number of sessions.
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

// durationOrZero takes a time that may be none.
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
		return 0, fmt.Errorf("%q is no duration: write a number and a unit, such as 90s, 15m, 12h or 90d", text)
	}
	if d <= 0 {
		return 0, fmt.Errorf("%q is no time to wait: it must be over zero; leave the line out for the default", text)
	}
	return d, nil
}

// parseRate takes a number in a time: 30/m.
func parseRate(text string) (*Rate, error) {
	if err := noPlaceholder(text); err != nil {
		return nil, err
	}
	number, unit, _ := strings.Cut(text, "/")
	per, ok := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day}[unit]
	count, err := strconv.Atoi(number)
	if !ok || err != nil || count < 1 {
		return nil, fmt.Errorf("%q is no rate: write a number, a slash and s, m, h or d, such as 30/m", text)
	}
	return &Rate{Count: count, Per: caddy.Duration(per)}, nil
}
