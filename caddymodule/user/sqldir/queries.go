package sqldir

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Queries are what is asked of the team's table. Find and Check are needed.
type Queries struct {
	// Find selects the user whom a login is of, by :phone, or by :national
	// together with :country.
	Find Query
	// Create makes the user whom Find did not find. Without it nobody is made.
	Create Query
	// Check selects the user :id.
	Check Query
	// Erase deletes the user :id. Without it the row stays.
	Erase Query
}

// QueryError is a query that cannot be meant.
type QueryError struct {
	// Name is the query's: find, create, check or erase.
	Name string
	err  error
}

// Error is the query's name and what to write instead.
func (e *QueryError) Error() string { return e.Name + ": " + e.err.Error() }

// Unwrap returns the cause.
func (e *QueryError) Unwrap() error { return e.err }

// ParseQueries takes the four queries, of which an empty one is none. The error
// is a *[QueryError].
func ParseQueries(find, create, check, erase string, mysql bool) (Queries, error) {
	var q Queries
	for _, part := range []struct {
		name, text string
		into       *Query
		rule       func(Query) error
	}{
		{"find", find, &q.Find, findRule},
		{"create", create, &q.Create, createRule},
		{"check", check, &q.Check, checkRule},
		{"erase", erase, &q.Erase, eraseRule},
	} {
		err := part.rule(Query{})
		if part.text != "" {
			if *part.into, err = ParseQuery(part.text, mysql); err == nil {
				err = part.rule(*part.into)
			}
		}
		if err != nil {
			return Queries{}, &QueryError{part.name, err}
		}
	}
	return q, nil
}

func findRule(q Query) error {
	if q.IsZero() {
		return errors.New(`it is missing: write the query that finds a user by their number, such as find "SELECT id FROM members WHERE mobile = :phone"`)
	}
	if err := selects(q); err != nil {
		return err
	}
	return byNumber(q)
}

func createRule(q Query) error {
	if q.IsZero() {
		return nil
	}
	return byNumber(q)
}

func checkRule(q Query) error {
	if q.IsZero() {
		return errors.New(`it is missing: at each refresh it tells whether the user is still there, such as check "SELECT id FROM members WHERE id = :id"`)
	}
	if err := selects(q); err != nil {
		return err
	}
	return byID(q)
}

func eraseRule(q Query) error {
	if q.IsZero() {
		return nil
	}
	return byID(q)
}

// byNumber holds a query to the whole number. Two countries have users with the
// same national number, and one must not become the other.
func byNumber(q Query) error {
	switch {
	case q.Uses("phone"), q.Uses("national") && q.Uses("country"):
		return nil
	case q.Uses("national"):
		return errors.New(":national is the number without its country, and somebody in another country has the same one: " +
			"use :phone, which is whole (+8613800138000), or use :country too, such as mobile = :national AND :country = '86'")
	}
	return errors.New("it does not use the number that logs in: use :phone (+8613800138000), or :national (13800138000) together with :country (86)")
}

// byID holds a query to the user's id, which is all that is known then.
func byID(q Query) error {
	for _, name := range q.names {
		if name != "id" {
			return fmt.Errorf("only :id is known here, not :%s", name)
		}
	}
	if !q.Uses("id") {
		return errors.New("it does not use :id, the user whom it is about")
	}
	return nil
}

var (
	selectForm = regexp.MustCompile(`(?i)^\s*(select|with)\b`)
	starForm   = regexp.MustCompile(`(?i)(\bselect(\s+(distinct|all))?|,|\.)\s*\*`)
)

// selects holds a query to naming what it reads.
func selects(q Query) error {
	if !selectForm.MatchString(q.bare) {
		return errors.New("it must begin with SELECT or WITH, as it reads the user's row")
	}
	if starForm.MatchString(q.bare) {
		return errors.New("name the columns instead of *: whoever logs in is told every column but id and disabled, in userInfo")
	}
	return nil
}

// named is a query's text and values, ready for a database.
func (q Query) on(db Database, values map[string]string) (string, []any) {
	return strings.TrimSpace(q.SQL(db.Placeholder)), q.args(values)
}
