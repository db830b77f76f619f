package user

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

const (
	// MaxClaims bounds a user's claims, in bytes of JSON: a token holds them,
	// sealed, and is sent with every request.
	MaxClaims = 3 << 10
	// MaxInfo bounds a user's further members of userInfo, in bytes of JSON.
	MaxInfo = 64 << 10
	// maxClaimName bounds a claim's name.
	maxClaimName = 64
)

// ourClaims are the claims that this gateway makes, or means something by: those
// of RFC 7519 and RFC 9068, WeChat's ids, and OpenID Connect's for phone numbers.
var ourClaims = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "sid", "openid", "unionid", "wx",
	"phone_number", "phone_number_verified",
}

// ReservedClaim reports whether a claim of this name, in any case, is not a
// directory's to set.
func ReservedClaim(name string) bool {
	return slices.ContainsFunc(ourClaims, func(ours string) bool { return strings.EqualFold(name, ours) })
}

// nobody is what languages write where there is no id.
var nobody = []string{"undefined", "null", "nil", "None", "NaN", "NULL"}

// Checked is d with its answers checked, whoever wrote it. What no user can be is
// [ErrMisconfigured]: an id that is none, somebody else than who was asked for,
// claims that are ours or do not fit into a token, too much of anything.
func Checked(d Directory) Directory { return checked{d} }

type checked struct{ Directory }

func (c checked) Login(ctx context.Context, l Login) (User, error) {
	u, err := c.Directory.Login(ctx, l)
	if err != nil {
		return User{}, err
	}
	if l.Silent() && l.UserID != "" && u.ID != l.UserID {
		// Without a phone number nothing says that they are the same person.
		return User{}, fmt.Errorf("%w: a login without a phone number, of user %s, was answered with another user; answer that the user is unknown if they are no more", ErrMisconfigured, l.UserID)
	}
	return u, check(u)
}

func (c checked) Check(ctx context.Context, id string) (User, error) {
	u, err := c.Directory.Check(ctx, id)
	if err != nil {
		return User{}, err
	}
	if u.ID != id {
		return User{}, fmt.Errorf("%w: asked for user %s, it answered with another user", ErrMisconfigured, id)
	}
	return u, check(u)
}

func check(u User) error {
	if !ValidID(u.ID) {
		return fmt.Errorf("%w: an id has 1 to 128 characters of visible ASCII, and no blanks; this one has %d bytes", ErrMisconfigured, len(u.ID))
	}
	if slices.Contains(nobody, u.ID) {
		return fmt.Errorf("%w: the id %q is what a program writes where there is none", ErrMisconfigured, u.ID)
	}
	for name := range u.Claims {
		switch {
		case name == "" || len(name) > maxClaimName:
			return fmt.Errorf("%w: the name of a claim has 1 to %d characters", ErrMisconfigured, maxClaimName)
		case ReservedClaim(name):
			return fmt.Errorf("%w: the claim %q is not the directory's to set: choose another name", ErrMisconfigured, name)
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
		return fmt.Errorf("%w: %s has %d bytes of JSON, of at most %d", ErrMisconfigured, what, len(text), most)
	}
	return nil
}
