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

// ChangePhone requests that the user gets another number, or none. The change counts as made only
// if the answer repeats the number. A backend that does not know this type of request answers
// something else, and has changed nothing.
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
		// The backend does not know the user, or this type of request.
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

// repeats checks that an answer contains the number of the request. number is nil if the number was
// taken away.
func repeats(body []byte, number *string) error {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil || len(members["phone"]) == 0 {
		return user.ErrPhoneFixed
	}
	var answered *string
	err := json.Unmarshal(members["phone"], &answered)
	if err != nil || (answered == nil) != (number == nil) || number != nil && *answered != *number {
		return misconfigured("phone must repeat the number of the request in the answer to user.phone, but it is %s", kind(members["phone"]))
	}
	return nil
}

var _ user.PhoneChanger = (*Directory)(nil)
