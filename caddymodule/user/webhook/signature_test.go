package webhook

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The signature must be that of Standard Webhooks. This is the example of its libraries.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	s, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := signatures([]Secret{s}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A secret was copied with a mistake. The error must name the remedy, and must not contain the
// secret.
func TestMalformedSecretsAreNotPrinted(t *testing.T) {
	good := "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	for name, text := range map[string]string{
		"no prefix":      good,
		"no base64":      "whsec_!!!!" + good,
		"empty":          "whsec_",
		"16 bytes":       "whsec_AAAAAAAAAAAAAAAAAAAAAA==",
		"65 bytes":       "whsec_" + strings.Repeat("AAAA", 21) + "AAA=",
		"zeros":          "whsec_" + strings.Repeat("AAAA", 10) + "AAA=",
		"asymmetric":     "whsk_" + good,
		"upper case":     "WHSEC_" + good,
		"blank at start": " whsec_" + good,
	} {
		if _, err := ParseSecret(text); err == nil || strings.Contains(err.Error(), good) || !strings.Contains(err.Error(), "openssl") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := ParseSecret("whsec_" + good + "==") // superfluous or missing padding is accepted
	if err != nil {
		t.Fatal(err)
	}
	if printed := fmt.Sprintf("%v %+v %#v %s", s, s, s, &s); strings.Contains(printed, "Mf") || strings.Contains(printed, "49") {
		t.Errorf("printed: %s", printed)
	}
}
