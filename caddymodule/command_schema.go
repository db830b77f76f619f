package caddymodule

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema postgres|mysql|sqlite",
		Short: "Prints the SQL that creates the tables, for `migrate off`",
		Long: `Prints the SQL that creates all tables and indexes, if no program may
change a schema: run it as the tables' owner, and write "migrate off" in the
block of store. The grants that the gateway's user needs are at its end.

With --from it prints what brings the tables of an earlier version up to date;
the error at start names that version.`,
		Example: `  caddy wx-auth schema postgres | psql -v ON_ERROR_STOP=1 app
  caddy wx-auth schema mysql --table-prefix login_ | mysql app
  caddy wx-auth schema mysql --from 1`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: store.Kinds(), // for the shell's completion
	}
	prefix := cmd.Flags().String("table-prefix", defaultTablePrefix, "what the name of each table starts with, as in table_prefix")
	from := cmd.Flags().Int("from", 0, "the version that the tables have")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := store.Schema(args[0], *prefix, *from)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}
