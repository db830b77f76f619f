package sqldir

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Queries are the queries for the operator's table. Find and Check are required.
type Queries struct {
	// Find selects the user who logs in, by :phone, or by :national together with
	// :country.
	Find Query
	// Create inserts the user when Find finds none. Without it no user is created.
	Create Query
	// Check selects the user with the id :id.
	Check Query
	// Erase deletes the user with the id :id. Without it the row stays.
	Erase Query
	// Phone gives the user with the id :id another number. The number is in :phone, :country and
	// :national, as in Create. They are NULL if the number is taken away. Without this query no
	// number changes.
	Phone Query
}

// QueryError is the error for a query that is certainly wrong.
type QueryError struct {
	// Name is the name of the query: find, create, check, erase or phone.
	Name string
	err  error
}

// Error returns the name of the query and what to write instead.
func (e *QueryError) Error() string { return e.Name + ": " + e.err.Error() }

// Unwrap returns the cause.
func (e *QueryError) Unwrap() error { return e.err }

// ParseQueries parses the queries, except Phone. An empty text means that there is no such query.
// The error is a *[QueryError].
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
		return errors.New(`it is missing: write the query that each refresh runs to see whether the user still exists, such as check "SELECT id FROM members WHERE id = :id"`)
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

// byNumber requires a query to use the whole number. Users in two countries may have the same
// national number, and one must not log in as the other.
func byNumber(q Query) error {
	switch {
	case q.Uses("phone"), q.Uses("national") && q.Uses("country"):
		return nil
	case q.Uses("national"):
		return errors.New(":national is the number without its country, and somebody in another country may have the same one: " +
			"use :phone, the whole number (+8613800138000), or use :country too, such as mobile = :national AND :country = '86'")
	}
	return errors.New("it does not use the phone number of the login: use :phone (+8613800138000), or :national (13800138000) together with :country (86)")
}

// byID requires a query to use the user's id and no other parameter, because nothing else is known
// when it runs.
func byID(q Query) error {
	for _, name := range q.names {
		if name != "id" {
			return fmt.Errorf("only :id is known here: remove :%s", name)
		}
	}
	if !q.Uses("id") {
		return errors.New("it does not use :id, the id of the user")
	}
	return nil
}

var (
	selectForm = regexp.MustCompile(`(?i)^\s*(select|with)\b`)
	starForm   = regexp.MustCompile(`(?i)(\bselect(\s+(distinct|all))?|,|\.)\s*\*`)
)

// selects requires a query to name the columns that it reads.
func selects(q Query) error {
	if !selectForm.MatchString(q.bare) {
		return errors.New("it must begin with SELECT or WITH, because it reads the user's row")
	}
	if starForm.MatchString(q.bare) {
		return errors.New("name the columns instead of *: a login returns every column but id and disabled to the client, in userInfo")
	}
	return nil
}

// on returns a query's text and values, ready for a database.
func (q Query) on(db Database, values map[string]string) (string, []any) {
	return strings.TrimSpace(q.SQL(db.Placeholder)), q.args(values)
}
