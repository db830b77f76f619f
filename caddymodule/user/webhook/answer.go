package webhook

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// read parses the user in an answer. The names of members are compared exactly, and unknown members
// are ignored. Errors contain no values of the answer, only their types.
func read(status int, body []byte) (user.User, error) {
	if status != http.StatusOK && status != http.StatusCreated {
		return user.User{}, statusError(status)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return user.User{}, misconfigured("its answer is not a JSON object")
	}
	var u user.User
	if raw := members["id"]; kind(raw) != "string" || json.Unmarshal(raw, &u.ID) != nil {
		return user.User{}, misconfigured("id must be a string in its answer, but it is %s", kind(raw))
	}
	switch raw := members["disabled"]; string(raw) {
	case "true":
		u.Disabled = true
	case "false", "null", "":
	default:
		return user.User{}, misconfigured("disabled must be true or false in its answer, but it is %s", kind(raw))
	}
	var err error
	if u.Info, err = object(members, "userInfo"); err == nil {
		u.Claims, err = object(members, "claims")
	}
	return u, err
}

// object returns a member that must be an object, or nil if it is missing. An empty
// list is accepted, because PHP encodes an empty object that way.
func object(members map[string]json.RawMessage, name string) (map[string]any, error) {
	raw := members[name]
	switch kind(raw) {
	case "missing", "null":
		return nil, nil
	case "a list":
		var list []any
		if json.Unmarshal(raw, &list) == nil && len(list) == 0 {
			return nil, nil
		}
	case "an object":
		var out map[string]any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber() // keeps long numbers exactly as they are written
		if dec.Decode(&out) == nil {
			return out, nil
		}
	}
	return nil, misconfigured("%s must be an object in its answer, but it is %s", name, kind(raw))
}

func kind(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "missing"
	}
	switch raw[0] {
	case '"':
		return "string"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}
