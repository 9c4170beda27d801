package async

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A bundle is one message that says what several calls came to. Most of what a
// small result costs is its message, so calls that end at about the same time
// share one. For each of them it has a line with the length of the answer and
// the call's record, and then the answer.

const (
	// blockSize is how many neighbours in the calls stream may share a bundle:
	// the call's place says under which subjects its bundle is, and whoever
	// looks for it reads no more than a block's.
	blockSize = 64
	// maxBundle bounds what a bundle holds besides its last call, in bytes. It
	// must fit into a message of NATS, of which a call with the largest answer
	// takes about a third.
	maxBundle = 256 << 10
)

// block returns how subjects begin, in the done stream, of bundles with calls
// whose place in the calls stream is seq. What follows makes each of them
// unique: the broker finds the last message of a subject at once, and others by
// reading all that lie between.
func block(seq uint64) string {
	return doneSubject + strconv.FormatUint(seq/blockSize, 10) + "."
}

// blockNumber reads which block a bundle with this subject is of.
func blockNumber(subject string) (uint64, bool) {
	number, _, _ := strings.Cut(strings.TrimPrefix(subject, doneSubject), ".")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, err == nil
}

// An ending is what a call came to, to be stored in a bundle.
type ending struct {
	subject string // of the bundle; what it begins with, if it ends with a dot
	index   int    // of a batch's item
	record  []byte // JSON
	answer  []byte
}

// bundle appends e to payload.
func (e ending) bundle(payload []byte) []byte {
	payload = strconv.AppendInt(payload, int64(len(e.answer)), 10)
	payload = append(payload, ' ')
	payload = append(payload, e.record...)
	payload = append(payload, '\n')
	return append(payload, e.answer...)
}

// eachEnding calls each for the records and answers of a bundle, until it
// returns false.
func eachEnding(payload []byte, each func(record, answer []byte) bool) error {
	for len(payload) > 0 {
		line, rest, _ := bytes.Cut(payload, []byte("\n"))
		length, record, ok := bytes.Cut(line, []byte(" "))
		n, err := strconv.Atoi(string(length))
		if !ok || err != nil || n < 0 || n > len(rest) {
			return fmt.Errorf("read a bundle of results: it is broken at %.40q", payload)
		}
		if !each(record, rest[:n:n]) {
			return nil
		}
		payload = rest[n:]
	}
	return nil
}

// readEnding reads the record in a bundle.
func readEnding(record []byte) (*Call, error) {
	c := &Call{}
	if err := json.Unmarshal(record, c); err != nil {
		return nil, fmt.Errorf("read a record: %w", err)
	}
	if c.State == Done && len(c.Tries) == 0 && c.Started != nil && c.Ended != nil {
		c.Tries = []Try{{Started: *c.Started, Seconds: c.Ended.Sub(*c.Started).Seconds(), Status: c.Status}}
	}
	return c, nil
}

// bundles makes messages of endings, each of those of one subject.
func bundles(endings []ending) (messages []*nats.Msg, of []int) {
	of = make([]int, len(endings)) // the message that an ending is in
	open := map[string]int{}
	for i, e := range endings {
		at, ok := open[e.subject]
		if !ok || len(messages[at].Data) > maxBundle {
			at = len(messages)
			open[e.subject] = at
			m := &nats.Msg{Subject: e.subject}
			if strings.HasSuffix(m.Subject, ".") {
				m.Subject += strconv.FormatUint(rand.Uint64(), 36)
			}
			messages = append(messages, m)
		}
		m := messages[at]
		m.Data = e.bundle(m.Data)
		if strings.HasPrefix(e.subject, resultsSubject) {
			list := strconv.Itoa(e.index)
			if m.Header == nil {
				m.Header = nats.Header{headerIndex: {list}}
			} else {
				m.Header[headerIndex][0] += "," + list
			}
		}
		of[i] = at
	}
	return messages, of
}

// eachOfBlock calls each for the records and answers of the bundles whose
// subjects begin with this, in their order. There are few, unless the calls of
// the block were run again and again; then they are looked for one by one.
func (q *Queue) eachOfBlock(ctx context.Context, block string, each func(record, answer []byte)) error {
	for from, more := uint64(1), true; more; {
		var page []message
		var err error
		page, more, err = q.latest(ctx, doneStream, []string{block + "*"}, from, blockSize)
		if errors.Is(err, errTooMany) {
			page, more, err = q.ahead(ctx, doneStream, block+"*", from, blockSize)
		}
		if err != nil {
			return unavailable(fmt.Errorf("read results: %w", err))
		}
		for _, m := range page {
			from = m.seq + 1
			if err := eachEnding(m.data, func(r, a []byte) bool { each(r, a); return true }); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundled returns a call from the done stream, and the body of its answer if
// that is not in the object store. Errors are fault.NotFound.
func (q *Queue) bundled(ctx context.Context, id string) (*Call, []byte, error) {
	notFound := fault.NotFound.Errorf("call %s is not known, or not any more", id)
	place, ok := sequence(id)
	if !ok || place == 0 {
		return nil, nil, notFound
	}
	var found, answer []byte
	mark := []byte(`"id":"` + id + `"`)
	err := q.eachOfBlock(ctx, block(place), func(r, a []byte) {
		if bytes.Contains(r, mark) {
			found, answer = r, a
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("find call %s: %w", id, err)
	}
	if found == nil {
		return nil, nil, notFound
	}
	c, err := readEnding(found)
	if err != nil {
		return nil, nil, err
	}
	if c.ID != id {
		return nil, nil, notFound
	}
	return c, answer, nil
}
