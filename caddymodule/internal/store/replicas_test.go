package store

import "testing"

// A replica was away for an hour. It announces itself again just when another replica deletes its
// old announcement. The new announcement must stay. Otherwise rekey would not notice that this
// replica lacks the new key.
func TestForgetSparesARenewedReplica(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		for _, name := range []string{"gone", "back"} {
			if err := s.Announce(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		read, err := s.announced(t.Context())
		if err != nil || len(read) != 2 {
			t.Fatalf("%+v, %v", read, err)
		}
		read[0].value = append(read[0].value, " earlier"...) // the older announcement of "back"
		if err := s.forget(t.Context(), read); err != nil {
			t.Fatal(err)
		}
		left, err := s.Replicas(t.Context())
		if err != nil || len(left) != 1 || left[0].Name != "back" {
			t.Errorf("%+v, %v", left, err)
		}
	})
}
