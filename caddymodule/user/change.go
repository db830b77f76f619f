package user

import (
	"context"
	"errors"
)

var (
	// ErrPhoneTaken means that the number is another user's.
	ErrPhoneTaken = errors.New("the phone number is another user's")

	// ErrPhoneFixed means that the directory does not change numbers.
	ErrPhoneFixed = errors.New("the user directory does not change phone numbers")
)

// PhoneChanger is a [Directory] that can give a user another number.
type PhoneChanger interface {
	// ChangePhone makes to the user's number. A zero number takes the number away: the
	// user withdrew it, or it belongs to someone else by now. Changing to the number that
	// the user has is not an error, so that a call may be repeated. It returns
	// [ErrPhoneTaken], [ErrUnknown], and [ErrPhoneFixed] if it cannot change numbers.
	ChangePhone(ctx context.Context, id string, to Phone) error
}

// ChangesPhones reports whether d changes numbers. A PhoneChanger may have a method
// "ChangesPhones() bool" if that depends on its settings.
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

// ChangePhone changes a number in any directory. It returns [ErrPhoneFixed] for one that
// does not change numbers.
func ChangePhone(ctx context.Context, d Directory, id string, to Phone) error {
	if c, ok := d.(checked); ok {
		d = c.Directory
	}
	if !ChangesPhones(d) {
		return ErrPhoneFixed
	}
	return d.(PhoneChanger).ChangePhone(ctx, id, to)
}
