package webhook

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// phoneEvent is the body of a request to change a number.
type phoneEvent struct {
	Type     string  `json:"type"`
	UserID   string  `json:"userId"`
	Phone    *string `json:"phone"`
	Country  *string `json:"country"`
	National *string `json:"national"`
}

// ChangePhone requests that the user gets another number, or none. It is done only if the
// answer repeats the number: a backend that does not know this type of request answers
// something else, and must not seem to have changed anything.
func (d *Directory) ChangePhone(ctx context.Context, id string, to user.Phone) error {
	number := known(to.E164())
	status, body, err := d.ask(ctx, newID(), phoneEvent{
		Type: "user.phone", UserID: id, Phone: number, Country: known(to.Country), National: known(to.National),
	})
	switch {
	case err != nil:
		return err
	case status == http.StatusConflict:
		return user.ErrPhoneTaken
	case gone(status):
		// No such user, or no such type of request.
		if _, err := d.Check(ctx, id); err != nil {
			return err
		}
		return user.ErrPhoneFixed
	case status/100 == 2 && status != http.StatusOK,
		status == http.StatusBadRequest, status == http.StatusUnprocessableEntity, status == http.StatusNotImplemented:
		return user.ErrPhoneFixed
	case status != http.StatusOK:
		return statusError(status)
	}
	return repeats(body, number)
}

// repeats checks that an answer has the number of the request, or null.
func repeats(body []byte, number *string) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil || len(members["phone"]) == 0 {
		return user.ErrPhoneFixed
	}
	var answered *string
	err := json.Unmarshal(members["phone"], &answered)
	if err != nil || (answered == nil) != (number == nil) || number != nil && *answered != *number {
		return misconfigured("phone must repeat the number of the request in the answer to user.phone, and is %s", kind(members["phone"]))
	}
	return nil
}

var _ user.PhoneChanger = (*Directory)(nil)
