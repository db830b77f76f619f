package rig

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
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
			if os.Getenv(requireNginx) != "" {
				t.Fatalf("%s is set, and nginx is missing: apt-get install nginx-light", requireNginx)
			}
			t.Skipf("LEFT OUT: forward auth with nginx's auth_request, as nginx is not installed (apt-get install nginx-light); %s=1 makes this a failure", requireNginx)
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
	cmd := exec.Command(nginx, "-p", dir, "-c", file, "-e", "stderr", "-g", "daemon off; master_process off;")
	cmd.SysProcAttr = ChildAttributes()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("nginx:\n%s", &log)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("nginx ended:\n%s", &log)
		default:
			if time.Now().After(deadline) {
				t.Fatal("nginx does not listen")
			}
		}
	}
}
