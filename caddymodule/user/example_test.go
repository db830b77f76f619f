package user_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Members is a directory that keeps its users in memory.
type Members struct {
	mu      sync.Mutex
	byPhone map[user.Phone]user.User
	byID    map[string]user.User
}

// Login finds the owner of the number, or creates a member with it.
func (m *Members) Login(_ context.Context, l user.Login) (user.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.Silent() { // no number: the user to whom the openid is bound
		return m.find(l.UserID)
	}
	if u, ok := m.byPhone[l.Phone]; ok {
		return u, nil
	}
	u := user.User{ID: strconv.Itoa(len(m.byID) + 1), Phone: l.Phone, Claims: map[string]any{"role": "member"}}
	m.byPhone[l.Phone], m.byID[u.ID] = u, u
	u.New = true
	return u, nil
}

// Check returns the user with their current data.
func (m *Members) Check(_ context.Context, id string) (user.User, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(id)
}

// Erase deletes the user.
func (m *Members) Erase(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byPhone, m.byID[id].Phone)
	delete(m.byID, id)
	return nil
}

func (m *Members) find(id string) (user.User, error) {
	u, ok := m.byID[id]
	if !ok {
		return user.User{}, user.ErrUnknown
	}
	return u, nil
}

// A custom directory has three methods.
func ExampleDirectory() {
	var d user.Directory = &Members{byPhone: map[user.Phone]user.User{}, byID: map[string]user.User{}}
	ctx := context.Background()

	phone, _ := user.ParsePhone("86", "13800138000")
	first, _ := d.Login(ctx, user.Login{AppID: "wx1", OpenID: "o1", Phone: phone})
	again, _ := d.Login(ctx, user.Login{AppID: "wx1", OpenID: "o1", UserID: first.ID})
	fmt.Println(first.ID, first.New, again.ID, again.New)

	_ = d.Erase(ctx, "1")
	_, err := d.Check(ctx, "1")
	fmt.Println(err)
	// Output:
	// 1 true 1 false
	// user unknown
}
