package rig

import "fmt"

// Panics makes three places panic, with a message that contains input: a third-party
// matcher, an endpoint, and the login chain.
var Panics = []Change{
	{File: "caddymodule/handler.go", Old: "if len(h.matcher) == 0 {", New: panicIf(`r.Header.Get("X-Panic") != ""`) + "if len(h.matcher) == 0 {"},
	{File: "caddymodule/internal/api/endpoints.go", Old: "return serve(c)\n", New: panicIf(`c.r.Header.Get("X-Panic") != ""`) + "return serve(c)\n"},
	{File: "caddymodule/internal/login/identify.go", Old: "if who, err = c.caller", New: panicIf(`r.Code == "0panic"`) + "if who, err = c.caller"},
}

// PanicWords is the message of these panics.
const PanicWords = "the words of a panic"

func panicIf(condition string) string {
	return fmt.Sprintf("if %s {\npanic(%q)\n}\n", condition, PanicWords)
}
