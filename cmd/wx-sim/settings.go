package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// defaultAppID and defaultSecret belong to the mini program that exists without any flag.
// wx-demo and the client's development mode have the same one.
const (
	defaultAppID  = "wx0123456789abcdef"
	defaultSecret = "0123456789abcdef0123456789abcdef"
)

// settings are the flags, and the contents of the file of --config.
type settings struct {
	// Apps are the mini programs, in the format of the control API.
	Apps []wechattest.App `json:"apps"`
	// Phones are the people that the control page offers.
	Phones []person `json:"phones"`

	listen  string
	state   string
	mock    string
	origins []string
}

// person is a person with a phone. Without a user, the number serves as the person's
// name.
type person struct {
	User    string `json:"user"`
	Phone   string `json:"phone"`
	Country string `json:"country"`
}

const usage = `Usage: wx-sim [flags]

A WeChat for development: it answers jscode2session, stable_token, token and
getuserphonenumber as api.weixin.qq.com does. Open its address in a browser for
the control page. Bind it to this machine or a private network only: whoever
reaches it controls it.

Flags:
`

func parse(args []string, out io.Writer) (*settings, error) {
	set := &settings{}
	flags := flag.NewFlagSet("wx-sim", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage); flags.PrintDefaults() }
	flags.StringVar(&set.listen, "listen", "127.0.0.1:8300", "`address` to listen on")
	flags.StringVar(&set.state, "state", "", "`file` that keeps codes, tokens, quotas and settings over a restart (default: nothing is kept)")
	flags.StringVar(&set.mock, "mock", "devtools", "the `user` that DevTools' literal code \""+wechattest.MockCode+"\" stands for; empty: it is refused, as by WeChat")
	config := flags.String("config", "", `JSON `+"`file`"+`: {"apps": [{"appid", "secret", …}], "phones": [{"user", "phone", "country"}]}`)
	flags.Func("app", "a mini program, `appid:secret[:account]`, again for each; those with the same Open Platform account share unionids (default "+defaultAppID+":"+defaultSecret+")", func(v string) error {
		parts := strings.Split(v, ":")
		if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
			return fmt.Errorf("want appid:secret or appid:secret:account")
		}
		set.Apps = append(set.Apps, wechattest.App{ID: parts[0], Secret: parts[1], OpenPlatform: strings.Join(parts[2:], "")})
		return nil
	})
	flags.Func("phone", "a number that the control page offers, `[user=]number`, again for each", func(v string) error {
		user, number, named := strings.Cut(v, "=")
		if !named {
			user, number = "", v
		}
		set.Phones = append(set.Phones, person{User: user, Phone: number})
		return nil
	})
	flags.Func("origin", "a web `origin` whose pages may use the control API, again for each; those on this machine may anyway", func(v string) error {
		set.origins = append(set.origins, v)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if *config != "" {
		if err := set.read(*config); err != nil {
			return nil, fmt.Errorf("%s: %w", *config, err)
		}
	}
	if len(set.Apps) == 0 {
		set.Apps = []wechattest.App{{ID: defaultAppID, Secret: defaultSecret}}
	}
	if len(set.Phones) == 0 {
		set.Phones = []person{{Phone: "13800138000"}, {Phone: "13900139000"}}
	}
	return set, nil
}

// read adds the contents of the file to the settings of the flags.
func (set *settings) read(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var more settings
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&more); err != nil {
		return err
	}
	set.Apps, set.Phones = append(more.Apps, set.Apps...), append(more.Phones, set.Phones...)
	return nil
}
