package examples

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// shellBlocks returns the blocks of shell of a page, in their order.
func shellBlocks(t *testing.T, file string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(string(text), "```") {
		if block, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// store is a gateway's store with what the commands of docs/backup.md need to find it.
type store struct {
	g        *rig.Gateway
	programs []string
	env      func(home string) []string
}

var stores = map[string]func(t *testing.T) store{
	"sqlite": func(t *testing.T) store {
		g := rig.NewGateway(t)
		return store{g, []string{"sqlite3"}, func(string) []string { return []string{"STORE=" + filepath.Dir(g.Caddy.StoreFile())} }}
	},
	"postgres": func(t *testing.T) store {
		db := rig.NewServer(t, "postgres").Database
		u, err := url.Parse(db.URL)
		if err != nil {
			t.Fatal(err)
		}
		return store{rig.NewReplicas(t, db, 1)[0], []string{"pg_dump", "pg_restore"}, func(string) []string {
			return []string{"PGHOST=" + u.Hostname(), "PGPORT=" + u.Port(), "PGUSER=" + u.User.Username(), "PGDATABASE=" + strings.TrimPrefix(u.Path, "/")}
		}}
	},
	"mysql": func(t *testing.T) store {
		db := rig.NewDatabase(t, "mysql")
		u, err := url.Parse(db.URL)
		if err != nil {
			t.Fatal(err)
		}
		return store{rig.NewReplicas(t, db, 1)[0], []string{"mariadb-dump", "mariadb"}, func(home string) []string {
			password, _ := u.User.Password()
			text := fmt.Sprintf("[client]\nhost=%s\nport=%s\nuser=%s\npassword=%s\n", u.Hostname(), u.Port(), u.User.Username(), password)
			if socket := u.Query().Get("socket"); socket != "" {
				text += "socket=" + socket + "\nprotocol=socket\n"
			}
			if err := os.WriteFile(filepath.Join(home, ".my.cnf"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"DATABASE=" + strings.TrimPrefix(u.Path, "/")}
		}}
	},
}

// An operator restores last night's backup with the commands of docs/backup.md. Users keep
// their ids, and tokens from before and after the backup stay good. As the page warns,
// sessions that ended after the backup are open again, and users that registered after it are
// unknown.
func TestBackupIsRestoredByThePage(t *testing.T) {
	t.Parallel()
	blocks := shellBlocks(t, "../../docs/backup.md")
	if zh := shellBlocks(t, "../../docs/zh/backup.md"); strings.Join(blocks, "\n") != strings.Join(zh, "\n") {
		t.Error("the pages differ in their commands")
	}
	for i, kind := range rig.Kinds {
		t.Run(kind, func(t *testing.T) {
			s := stores[kind](t)
			for _, program := range s.programs {
				if _, err := exec.LookPath(program); err != nil {
					rig.LeaveOutDeploy(t, "a backup of "+kind, "%v", err)
				}
			}
			home, g := deployDir(t), s.g
			env := append(s.env(home), "HOME="+home, "BACKUP="+home, "PATH="+os.Getenv("PATH"))
			run := func(block string) {
				t.Helper()
				cmd := exec.Command("sh", "-eu", "-c", block)
				cmd.Dir, cmd.Env, cmd.SysProcAttr = home, env, rig.ChildAttributes()
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s\n%s", err, out, block)
				}
			}
			stays, ended, ends := wantServing(t, g), g.MustLogin(t, "13800138001"), g.MustLogin(t, "13800138002")
			g.Logout(ended.Token, "", false).Want(t, http.StatusNoContent)
			run(blocks[2*i])

			ahead := g.Refresh(stays.RefreshToken).Pair(t)
			ahead = g.Refresh(ahead.RefreshToken).Pair(t)
			g.Logout(ends.Token, "", false).Want(t, http.StatusNoContent)
			late := g.MustLogin(t, "13800138003")
			g.Caddy.Stop()
			if kind == "sqlite" { // a new machine has no directory for it either
				if err := os.RemoveAll(filepath.Dir(g.Caddy.StoreFile())); err != nil {
					t.Fatal(err)
				}
			}
			run(blocks[2*i+1])
			g.Caddy.Restart()
			rig.Await(t, rig.CommandTime, "the gateway works", func() bool { return g.Get("/auth/wx/health", "").Status == http.StatusOK })

			g.WantAlive(t, stays)
			g.WantAlive(t, ahead)
			ahead.UserInfo = stays.UserInfo
			g.WantSame(t, ahead, "13800138000")
			g.WantEnded(t, ended)
			g.Refresh(ends.RefreshToken).Pair(t)
			g.WantAlive(t, late)
			if a := g.Refresh(late.RefreshToken); a.Status != http.StatusUnauthorized {
				t.Errorf("a session from after the backup: %d %s", a.Status, a.Body)
			}
			if again := g.MustLogin(t, "13800138003"); !again.UserInfo.IsNew || again.UserInfo.ID == late.UserInfo.ID {
				t.Errorf("a user from after the backup is %+v, was %s", *again.UserInfo, late.UserInfo.ID)
			}
		})
	}
}
