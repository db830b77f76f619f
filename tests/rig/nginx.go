package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// requireNginx makes the tests fail, rather than be skipped, if nginx is missing.
// .ci/run sets it.
const requireNginx = "WX_AUTH_TEST_REQUIRE_NGINX"

// StartNginx runs nginx with these server blocks, which listen at addr.
func StartNginx(t *testing.T, addr, block string) {
	t.Helper()
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		nginx = "/usr/sbin/nginx" // some users do not have it in their PATH
		if _, err := os.Stat(nginx); err != nil {
			leaveOut(t, requireNginx, "forward auth with nginx's auth_request", "nginx is not installed: apt-get install nginx-light")
		}
	}
	dir := t.TempDir()
	conf := "pid nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += kind + "_temp_path " + filepath.Join(dir, kind) + ";\n"
	}
	if os.Geteuid() == 0 {
		conf = "user root;\n" + conf // or it could not read dir
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf+block+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := StartProgram(t, exec.Command(nginx, "-p", dir, "-c", file, "-e", "stderr", "-g", "daemon off; master_process off;"))
	if !p.Listens(t, addr) {
		t.Fatal("nginx ended")
	}
}
