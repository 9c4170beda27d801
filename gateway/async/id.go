package async

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/graphene-faas/graphene/internal/function"
)

// A seed is the part of a call's id that is chosen before the call is stored.
// The rest is its place in the calls stream: so a waiting call is found by its
// id alone, and accepting a call is one write, not two.
type seed [11]byte

// newSeed returns a seed of the moment now.
func newSeed(now time.Time) seed {
	var s seed
	_, _ = rand.Read(s[6:]) // never fails
	ms := now.UnixMilli()
	for i := range 6 {
		s[i] = byte(ms >> (40 - 8*i))
	}
	return s
}

func (s seed) String() string { return hex.EncodeToString(s[:]) }

// id returns the UUID, of version 7, of the call with this seed at sequence
// seq: the time in milliseconds, 34 random bits, and the sequence in the last
// five bytes.
func (s seed) id(seq uint64) string {
	var u uuid.UUID
	copy(u[:], s[:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	binary.BigEndian.PutUint32(u[12:], uint32(seq))
	u[11] = byte(seq >> 32)
	return u.String()
}

// parseSeed reads what String wrote.
func parseSeed(text string) (seed, bool) {
	var s seed
	if len(text) != hex.EncodedLen(len(s)) {
		return s, false
	}
	_, err := hex.Decode(s[:], []byte(text))
	return s, err == nil
}

// sequence returns the place in the calls stream that id, made by seed.id,
// names. It reports false for other ids.
func sequence(id string) (uint64, bool) {
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return 0, false
	}
	return uint64(u[11])<<32 | uint64(binary.BigEndian.Uint32(u[12:])), true
}

// moment returns the time in id, which was made by seed.id, in milliseconds.
func moment(id string) time.Time {
	u := uuid.MustParse(id)
	return time.UnixMilli(int64(binary.BigEndian.Uint64(u[:]) >> 16)).UTC()
}

// named returns the id that parts always have: a UUID of version 8.
func named(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		h.Write(size[:])
		h.Write([]byte(p))
	}
	var u uuid.UUID
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}

// keyedID returns the id of the call that caller submits with an idempotency
// key. Keys of different functions and callers do not meet.
func keyedID(ref function.Ref, caller, key string) string {
	return named("call", ref.Namespace, ref.Name, caller, key)
}

// itemID returns the id of a batch's item.
func itemID(batch string, index int) string { return batch + "-" + strconv.Itoa(index) }

// parseItem reads what itemID wrote.
func parseItem(id string) (batch string, index int, ok bool) {
	const length = len("00000000-0000-0000-0000-000000000000")
	if len(id) <= length+1 || id[length] != '-' || !isUUID(id[:length]) {
		return "", 0, false
	}
	index, err := strconv.Atoi(id[length+1:])
	if err != nil || index < 0 || itemID(id[:length], index) != id {
		return "", 0, false
	}
	return id[:length], index, true
}

// isID reports whether id has the form of ids made here. Others must not get
// into subjects.
func isID(id string) bool {
	_, _, item := parseItem(id)
	return item || isUUID(id)
}

func isUUID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}
