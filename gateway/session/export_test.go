package session

import "time"

// Seal returns the cookie of a session that lasts.
func Seal(s *Sessions, token, refresh string) (string, error) {
	now := time.Now()
	return s.sealer.seal(sessionCookie, session{Token: pack(token), Refresh: pack(refresh), Expiry: now.Add(time.Hour).Unix(), Began: now.Unix()})
}
