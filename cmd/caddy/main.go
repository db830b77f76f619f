// Command caddy is Caddy with its standard modules and wx_auth compiled in. Its
// subcommand wx-demo runs a complete phone login against a simulator of WeChat.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/wx-auth/caddy-wx-auth/caddymodule"
)

func main() { caddycmd.Main() }
