package examples

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// aroundJava has the parts of Spring and Jackson that the receiver of docs/users.md uses, with
// the same names, and a program that calls the receiver as Spring would.
const aroundJava = `import static java.nio.charset.StandardCharsets.UTF_8;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.*;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Receiver {
  @interface PostMapping { String value(); }
  @interface RequestBody {}
  @interface RequestHeader { String value(); }
  record Member(int id, String role, boolean banned) {}
  static class Members { Member handle(Object event) { return new Member(7, "admin", false); } }
  static class ObjectMapper { Object readTree(byte[] body) { return body; } }
  static class ResponseEntity<T> {
    int status; Object body;
    static ResponseEntity<Object> of(int status, Object body) { var r = new ResponseEntity<Object>(); r.status = status; r.body = body; return r; }
    static Builder status(int status) { return new Builder(status); }
    static Builder notFound() { return new Builder(404); }
    static ResponseEntity<Object> ok(Object body) { return of(200, body); }
  }
  record Builder(int status) { ResponseEntity<Object> build() { return ResponseEntity.of(status, null); } }
  final Members members = new Members();

BLOCK

  public static void main(String[] a) throws Exception {
    var r = new Receiver().users(a[3].getBytes(UTF_8), a[0], Long.parseLong(a[1]), a[2]);
    System.out.println(r.status + " " + (r.body instanceof Map<?, ?> m ? m.get("id") : ""));
  }
}
`

// A team copies the receiver for Spring. It accepts the gateway's signature, and refuses
// another secret, an old message and another body.
func TestReceiverInJava(t *testing.T) {
	t.Parallel()
	javac, err := exec.LookPath("javac")
	if err != nil {
		t.Skip("LEFT OUT: the receiver in Java, which needs a JDK")
	}
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	dir, tried := t.TempDir(), ""
	file := filepath.Join(dir, "Receiver.java")
	for _, page := range rig.InBothLanguages("users.md") {
		block := rig.PageBlock(t, page, "@PostMapping(\"/wx-users\")")
		if block == tried {
			continue
		}
		tried = block
		if err := os.WriteFile(file, []byte(strings.Replace(aroundJava, "BLOCK", block, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(javac, "-d", dir, file).CombinedOutput(); err != nil {
			t.Fatalf("docs/%s: %v\n%s", page, err, out)
		}
		now := time.Now().Unix()
		for _, c := range []struct {
			key, body string
			at        int64
			want      string
		}{
			{"0123456789abcdef0123456789abcdef", `{"type":"user.check","userId":"7"}`, now, "200 7"},
			{"another key", `{"type":"user.check","userId":"7"}`, now, "401"},
			{"0123456789abcdef0123456789abcdef", `{"type":"user.check","userId":"7"}`, now - 3600, "401"},
			{"0123456789abcdef0123456789abcdef", `{"type":"user.erase","userId":"7"}`, now, "401"},
		} {
			signed := c.body
			if c.want == "401" && strings.Contains(c.body, "erase") {
				signed = "something else"
			}
			at := strconv.FormatInt(c.at, 10)
			mac := hmac.New(sha256.New, []byte(c.key))
			mac.Write([]byte("msg_1." + at + "." + signed))
			cmd := exec.Command("java", "-cp", dir, "Receiver", "msg_1", at, "v1,x v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)), c.body)
			cmd.Env = append(os.Environ(), "WX_USERS_SECRET="+secret)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != c.want {
				t.Errorf("docs/%s: %s, want %s (%v)", page, out, c.want, err)
			}
		}
	}
}
