// A team's program around what the pages print for Gin. It is a module of its own, so that
// no build of the gateway has what it imports. The test puts the pages' text in the place
// of the lines "BLOCK"; before that, it does not compile.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type member struct {
	ID     int
	Phone  string
	Role   string
	Banned bool
}

type memberList struct {
	mu    sync.Mutex
	known []*member
	made  int
}

var members = memberList{known: []*member{
	{ID: 7, Phone: "+8613800138000", Role: "admin"}, {ID: 8, Phone: "+8613600136000", Role: "member", Banned: true},
}}

// Handle finds or makes the member of an event, or erases them.
func (l *memberList) Handle(event, phone, userID string) *member {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.known, func(m *member) bool {
		return phone != "" && m.Phone == phone || phone == "" && strconv.Itoa(m.ID) == userID
	})
	switch {
	case event == "user.erase":
		if i >= 0 {
			l.known = slices.Delete(l.known, i, i+1)
		}
		return nil
	case i >= 0:
		return l.known[i]
	case phone == "":
		return nil
	}
	l.made++
	l.known = append(l.known, &member{ID: 8 + l.made, Phone: phone, Role: "member"})
	return l.known[len(l.known)-1]
}

func users(r gin.IRouter) {
	// BLOCK users
}

func tokens(r gin.IRouter) {
	// BLOCK tokens
}

func orders(c *gin.Context) {
	// BLOCK headers
	c.JSON(http.StatusOK, gin.H{"userId": userID, "phone": phone})
}

func main() {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	users(r)
	r.GET("/orders", orders)
	verified := r.Group("/verified")
	tokens(verified)
	verified.GET("", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"userId": c.GetString("userID")}) })
	log.Fatal(r.Run("127.0.0.1:" + os.Getenv("PORT")))
}
