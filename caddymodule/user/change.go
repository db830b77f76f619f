package user

import (
	"context"
	"errors"
)

var (
	// ErrPhoneTaken means that the number belongs to another user.
	ErrPhoneTaken = errors.New("the phone number belongs to another user")

	// ErrPhoneFixed means that the directory does not change numbers.
	ErrPhoneFixed = errors.New("the user directory does not change phone numbers")
)

// PhoneChanger is a [Directory] that can give a user another number.
type PhoneChanger interface {
	// ChangePhone gives the user the number to. If to is zero, it takes the number away: the user
	// withdrew it, or it belongs to someone else by now. It is not an error if the user has the
	// number already, so that a call may be repeated. ChangePhone returns [ErrPhoneTaken],
	// [ErrUnknown], or [ErrPhoneFixed] if it cannot change numbers.
	ChangePhone(ctx context.Context, id string, to Phone) error
}

// ChangesPhones reports whether d can change numbers. If that depends on the settings of a
// PhoneChanger, it may have a method "ChangesPhones() bool".
func ChangesPhones(d Directory) bool {
	if c, ok := d.(checked); ok {
		d = c.Directory
	}
	if _, ok := d.(PhoneChanger); !ok {
		return false
	}
	c, ok := d.(interface{ ChangesPhones() bool })
	return !ok || c.ChangesPhones()
}

// ChangePhone changes a number in any directory. It returns [ErrPhoneFixed] if the directory cannot
// change numbers.
func ChangePhone(ctx context.Context, d Directory, id string, to Phone) error {
	if c, ok := d.(checked); ok {
		d = c.Directory
	}
	if !ChangesPhones(d) {
		return ErrPhoneFixed
	}
	return d.(PhoneChanger).ChangePhone(ctx, id, to)
}
