package session

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// maxOpenedSessions bounds the sessions of one generation that are remembered.
	maxOpenedSessions = 2000
	// openedTime is for how long one is, at most: keys may be replaced.
	openedTime = time.Minute
)

// opened remembers what is in cookies, by their hash: to open one costs more
// than everything else that a request needs. It has two generations: when the
// young one is full it becomes the old one, which is then forgotten.
type opened struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*openedSession
}

type openedSession struct {
	session session
	token   string
	until   time.Time
}

// get returns what is remembered of a cookie, or nil.
func (o *opened) get(key [sha256.Size]byte, now time.Time) *openedSession {
	o.mu.Lock()
	defer o.mu.Unlock()
	found := o.young[key]
	if found == nil {
		found = o.old[key]
	}
	if found == nil || now.After(found.until) {
		return nil
	}
	return found
}

func (o *opened) put(key [sha256.Size]byte, v session, now time.Time) *openedSession {
	added := &openedSession{session: v, token: v.Token.String(), until: now.Add(openedTime)}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.young == nil || len(o.young) >= maxOpenedSessions {
		o.young, o.old = map[[sha256.Size]byte]*openedSession{}, o.young
	}
	o.young[key] = added
	return added
}
