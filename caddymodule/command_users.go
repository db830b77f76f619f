package caddymodule

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/cli"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// action is a command that works on one store.
type action struct {
	use, short, long, example string
	args                      cobra.PositionalArgs
	flags                     func(*cobra.Command)
	phones                    bool // the output has phone numbers
	do                        func(context.Context, *commandStore, cli.Output, []string) error
}

func (a action) command() *cobra.Command {
	cmd := &cobra.Command{Use: a.use, Short: a.short, Long: a.short + ".", Example: a.example, Args: a.args}
	if a.long != "" {
		cmd.Long += "\n\n" + a.long
	}
	from := addConfigFlags(cmd).addJSON(cmd).addStore(cmd)
	if a.phones {
		from.addPhone(cmd)
	}
	if a.flags != nil {
		a.flags(cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return from.one(func(ctx context.Context, o *commandStore) error {
			return a.do(ctx, o, from.output(cmd), args)
		})
	}
	return cmd
}

func usersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "users",
		Short: "Finds, shows, disables, erases and exports users",
		Long: `Finds, shows, disables, erases and exports users, like the service endpoints.

Phone numbers are masked unless --full-phone is given. Of users who live in a
directory of your own ("users" in the Caddyfile), only show and erase ask it.
Handlers of events are not called: they live in the running Caddy.`,
	}
	cmd.AddCommand(findUsers(), listUsers(), showUser(), setDisabled(true), setDisabled(false), eraseUser(), exportUser())
	return cmd
}

func findUsers() *cobra.Command {
	var appid string
	return action{
		use:   "find <phone number, openid or id>",
		short: "Finds a user by phone number, openid or id",
		long: `Write - to read it from the standard input: arguments are in the list of processes
and in your shell's history. A number without a country is one of mainland China.`,
		example: `  caddy wx-auth users find +8613800138000 --config /etc/caddy/Caddyfile
  caddy wx-auth users find oE9Xk9iBm8mydr-kZbcKFy9xsxpE --json`,
		args: cobra.ExactArgs(1), phones: true,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&appid, "appid", "", "the mini program of the openid (default: all mini programs of the configuration)")
		},
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			what := args[0]
			if what == "-" {
				text, err := io.ReadAll(io.LimitReader(os.Stdin, 4096))
				if err != nil {
					return err
				}
				what = string(text)
			}
			return o.FindUsers(ctx, out, what, appid, time.Now())
		},
	}.command()
}

func listUsers() *cobra.Command {
	var after string
	var limit int
	return action{
		use:     "list",
		short:   "Lists users in the order of their ids",
		example: `  caddy wx-auth users list --limit 0 --json`,
		args:    cobra.NoArgs, phones: true,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&after, "after", "", "list the users after this id")
			cmd.Flags().IntVar(&limit, "limit", 100, "the maximum number of users; 0: all")
		},
		do: func(ctx context.Context, o *commandStore, out cli.Output, _ []string) error {
			return o.ListUsers(ctx, out, after, limit)
		},
	}.command()
}

func showUser() *cobra.Command {
	return action{
		use: "show <id>", short: "Shows a user with openids and sessions",
		args: cobra.ExactArgs(1), phones: true,
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			return o.ShowUser(ctx, out, args[0], time.Now())
		},
	}.command()
}

func setDisabled(disabled bool) *cobra.Command {
	a := action{
		use: "enable <id>", short: "Lets a disabled user log in again", args: cobra.ExactArgs(1),
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			return o.EnableUser(ctx, out, args[0])
		},
	}
	if disabled {
		a.use, a.short = "disable <id>", "Keeps a user from logging in, and ends the sessions"
		a.do = func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			return o.DisableUser(ctx, out, args[0], time.Now())
		}
	}
	return a.command()
}

func eraseUser() *cobra.Command {
	return action{
		use: "erase <id>", short: "Erases a user: sessions, openids, number and record",
		long: "An external directory is asked to erase the user too. This cannot be undone.",
		args: cobra.ExactArgs(1),
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			return o.EraseUser(ctx, out, args[0], time.Now())
		},
	}.command()
}

func exportUser() *cobra.Command {
	return action{
		use: "export <id>", short: "Writes all that is kept here about a user, as JSON",
		long:    "It is what the user may ask for, so phone numbers are in full.",
		example: `  caddy wx-auth users export 01a20a30-eddd-71c0-b9f8-bb3f5de858db > export.json`,
		args:    cobra.ExactArgs(1),
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			return o.ExportUser(ctx, out, args[0])
		},
	}.command()
}

func sessionsCommand() *cobra.Command {
	var ended, all bool
	cmd := &cobra.Command{Use: "sessions", Short: "Lists and ends the sessions of a user"}
	cmd.AddCommand(action{
		use: "list <user id>", short: "Lists the sessions of a user, newest first", args: cobra.ExactArgs(1),
		flags: func(cmd *cobra.Command) {
			cmd.Flags().BoolVar(&ended, "ended", false, "list those that have ended, too")
		},
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			return o.ListSessions(ctx, out, args[0], ended, time.Now())
		},
	}.command(), action{
		use: "end <session id>...", short: "Ends sessions: tokens and refresh tokens stop working",
		example: `  caddy wx-auth sessions end 01a20a30-edde-7c48-ae19-a6de3bd23b0b
  caddy wx-auth sessions end --user 01a20a30-eddd-71c0-b9f8-bb3f5de858db`,
		args: cobra.MinimumNArgs(1),
		flags: func(cmd *cobra.Command) {
			cmd.Flags().BoolVar(&all, "user", false, "the ids are those of users: end all their sessions")
		},
		do: func(ctx context.Context, o *commandStore, out cli.Output, args []string) error {
			if all {
				return o.EndUsers(ctx, out, args, time.Now())
			}
			return o.EndSessions(ctx, out, args, time.Now())
		},
	}.command())
	return cmd
}

func tokenCommand() *cobra.Command {
	var unseal bool
	cmd := &cobra.Command{Use: "token", Short: "Shows what a token says, and whether it is accepted"}
	inspect := &cobra.Command{
		Use:   "inspect [<file>]",
		Short: "Shows what a token says, whether it is accepted, and why not",
		Long: `Shows what an access token says, whether the sites of the configuration accept it,
and why not. The token comes from the standard input or from a file. It is not
written anywhere.

The phone number and the claims of your directory are sealed in a token. --unseal
shows them, if the token was signed here.`,
		Example: `  pbpaste | caddy wx-auth token inspect --config /etc/caddy/Caddyfile`,
		Args:    cobra.MaximumNArgs(1),
	}
	from := addConfigFlags(inspect).addJSON(inspect).addStore(inspect)
	inspect.Flags().BoolVar(&unseal, "unseal", false, "show the phone number and the sealed claims")
	inspect.RunE = func(cmd *cobra.Command, args []string) error {
		in := os.Stdin
		if len(args) == 1 && args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				// The argument may be the token itself, so no part of it may be in the error.
				return errors.New("no file of that name can be read: the token is read from a file or from the standard input")
			}
			defer file.Close()
			in = file
		}
		raw, err := cli.ReadToken(in)
		if err != nil {
			return err
		}
		return from.one(func(ctx context.Context, o *commandStore) error {
			return o.InspectToken(ctx, from.output(cmd), raw, unseal, time.Now())
		})
	}
	cmd.AddCommand(inspect)
	return cmd
}

// lateUsers is an external directory that is loaded at its first call: most commands need
// neither it nor its secrets.
type lateUsers struct {
	of *commandStore
	user.Directory
}

func (l *lateUsers) load() error {
	if l.Directory != nil {
		return nil
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	l.of.users = cancel
	var err error
	l.Directory, err = l.of.handler.loadUsers(ctx)
	return err
}

// Check implements [user.Directory].
func (l *lateUsers) Check(ctx context.Context, id string) (user.User, error) {
	if err := l.load(); err != nil {
		return user.User{}, err
	}
	return l.Directory.Check(ctx, id)
}

// Erase implements [user.Directory].
func (l *lateUsers) Erase(ctx context.Context, id string) error {
	if err := l.load(); err != nil {
		return err
	}
	return l.Directory.Erase(ctx, id)
}
