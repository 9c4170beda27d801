package async

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// A past is what workers before it have left when a worker starts: calls that
// have run, and whose message is in the calls stream nonetheless, because the
// worker or the broker died before the acknowledgement. Such a call has left a
// result or a record. It is safe for concurrent use.
type past struct {
	q    *Queue
	last uint64 // calls up to here were there

	mu sync.Mutex
	// blocks has the blocks of calls that wait of which some have ended, by what
	// their subjects begin with, with the ids of these; nil until they are read.
	blocks map[string]map[string]bool
}

// newPast looks at what there is.
func (q *Queue) newPast(ctx context.Context) (*past, error) {
	calls, err := q.calls.Info(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	p := &past{q: q, last: calls.State.LastSeq, blocks: map[string]map[string]bool{}}
	if calls.State.Msgs == 0 {
		return p, nil
	}
	done, err := q.done.Info(ctx, jetstream.WithSubjectFilter(doneSubject+">"))
	if err != nil {
		return nil, unavailable(err)
	}
	for s := range done.State.Subjects {
		if n, ok := blockNumber(s); ok && n >= calls.State.FirstSeq/blockSize && n <= p.last/blockSize {
			p.blocks[block(n*blockSize)] = nil
		}
	}
	return p, nil
}

// suspects finds those of the calls that one worker fetched together, and were
// there before it, that may have been run. If it cannot tell, they all may.
func (p *past) suspects(ctx context.Context, got []*delivery) {
	var old []*delivery
	var subjects []string
	for _, d := range got {
		if d.old && !d.suspect {
			d.suspect = true
			old = append(old, d)
			subjects = append(subjects, recordsSubject+d.ID)
		}
	}
	if len(old) == 0 {
		return
	}
	records, more, err := p.q.latest(ctx, recordsStream, subjects, 1, len(subjects))
	if err != nil || more {
		return
	}
	known := map[string]bool{}
	for _, m := range records {
		known[strings.TrimPrefix(m.subject, recordsSubject)] = true
	}
	for _, d := range old {
		ended, err := p.ended(ctx, d)
		d.suspect = ended || err != nil || known[d.ID]
	}
}

// ended reports whether d had a result already.
func (p *past) ended(ctx context.Context, d *delivery) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := block(d.seq)
	ids, ok := p.blocks[s]
	if !ok || ids != nil {
		return ids[d.ID], nil
	}
	ids = map[string]bool{}
	err := p.q.eachOfBlock(ctx, s, func(record, _ []byte) {
		var c struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(record, &c) == nil {
			ids[c.ID] = true
		}
	})
	if err != nil {
		return false, err
	}
	p.blocks[s] = ids
	return ids[d.ID], nil
}
