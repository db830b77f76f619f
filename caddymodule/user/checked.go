package user

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

const (
	// MaxClaims bounds a user's claims, in bytes of JSON. They are sealed in the token, which is
	// sent with every request.
	MaxClaims = 3 << 10
	// MaxInfo bounds what a directory adds to userInfo, in bytes of JSON.
	MaxInfo = 64 << 10
	// maxClaimName bounds a claim's name.
	maxClaimName = 64
)

// ourClaims are the claims that this gateway sets or interprets: those of RFC 7519 and
// RFC 9068, WeChat's ids, and OpenID Connect's claims for phone numbers.
var ourClaims = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "sid", "openid", "unionid", "wx",
	"phone_number", "phone_number_verified",
}

// ReservedClaim reports whether a directory must not set a claim of this name. Case does not
// matter.
func ReservedClaim(name string) bool {
	return slices.ContainsFunc(ourClaims, func(ours string) bool { return strings.EqualFold(name, ours) })
}

// nobody lists the texts that programming languages print for a missing id.
var nobody = []string{"undefined", "null", "nil", "None", "NaN", "NULL"}

// Checked returns a directory that checks the answers of d. It returns [ErrMisconfigured] for an
// answer that cannot be right: an invalid id, another user than the requested one, claims that are
// reserved or do not fit into a token, or too much data.
func Checked(d Directory) Directory { return checked{d} }

type checked struct{ Directory }

func (c checked) Login(ctx context.Context, l Login) (User, error) {
	u, err := c.Directory.Login(ctx, l)
	if err != nil {
		return User{}, err
	}
	if l.Silent() && l.UserID != "" && u.ID != l.UserID {
		// Without a phone number, nothing proves that both users are the same person.
		return User{}, fmt.Errorf("%w: the directory answered a login of user %s, without a phone number, with another user; if the user no longer exists, it must answer that the user is unknown", ErrMisconfigured, l.UserID)
	}
	return u, check(u)
}

func (c checked) Check(ctx context.Context, id string) (User, error) {
	u, err := c.Directory.Check(ctx, id)
	if err != nil {
		return User{}, err
	}
	if u.ID != id {
		return User{}, fmt.Errorf("%w: the directory was asked for user %s, and answered with another user", ErrMisconfigured, id)
	}
	return u, check(u)
}

func check(u User) error {
	if !ValidID(u.ID) {
		return fmt.Errorf("%w: an id has 1 to 128 characters of visible ASCII, and no blanks; this one has %d bytes", ErrMisconfigured, len(u.ID))
	}
	if slices.Contains(nobody, u.ID) {
		return fmt.Errorf("%w: the id %q is what a program prints for a missing id", ErrMisconfigured, u.ID)
	}
	for name := range u.Claims {
		switch {
		case name == "" || len(name) > maxClaimName:
			return fmt.Errorf("%w: the name of a claim has 1 to %d characters", ErrMisconfigured, maxClaimName)
		case ReservedClaim(name):
			return fmt.Errorf("%w: the claim %q is reserved: choose another name", ErrMisconfigured, name)
		}
	}
	if err := fits("claims", u.Claims, MaxClaims); err != nil {
		return err
	}
	return fits("userInfo", u.Info, MaxInfo)
}

func fits(what string, members map[string]any, most int) error {
	if len(members) == 0 {
		return nil
	}
	text, err := json.Marshal(members)
	if err != nil {
		return fmt.Errorf("%w: %s cannot be written as JSON", ErrMisconfigured, what)
	}
	if len(text) > most {
		return fmt.Errorf("%w: %s has %d bytes of JSON, more than %d", ErrMisconfigured, what, len(text), most)
	}
	return nil
}
