package invoke

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
)

// maxCallID bounds the ids that callers choose.
const maxCallID = 128

// validCallID reports whether a caller's own id can be kept: short, printable,
// without spaces, and so harmless in headers and logs.
func validCallID(id string) bool { return id != "" && len(id) <= maxCallID && ascii(id) }

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// newCallID returns a random UUID. Ids need to be unique, not secret, so the
// process's own generator serves, which is seeded by the system and takes
// neither a lock nor a system call.
func newCallID() string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40 // version 4
	id[8] = id[8]&0x3f | 0x80 // variant of RFC 9562

	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
