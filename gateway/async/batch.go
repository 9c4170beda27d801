package async

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A Batch is many calls of one function, submitted together: one for each
// document of a file.
type Batch struct {
	ID        string    `json:"id"`
	Function  string    `json:"function"` // NAME.NAMESPACE
	Queue     string    `json:"queue"`
	Submitted time.Time `json:"submitted"`
	Accepted  int       `json:"accepted"` // documents that are in the queue, or were
	Complete  bool      `json:"complete"` // all of them have arrived
	Waiting   int       `json:"waiting"`  // calls that have not ended
	Done      int       `json:"done"`
	Failed    int       `json:"failed"`
	Cancelled int       `json:"cancelled"`
	// Dropped is when the results were dropped, to make room for others.
	Dropped *time.Time `json:"resultsDropped,omitempty"`

	seq uint64 // of the record
}

// Ended reports whether nothing more will happen to the batch by itself.
func (b *Batch) Ended() bool { return b.Complete && b.Waiting == 0 }

const (
	batchWindow = 256 // documents that are on their way to the broker at once
	batchSave   = time.Second
	// resultRetry is the outcome of a call that failed and was put back.
	resultRetry State = "retry"
)

// batch returns the record of a batch.
func (q *Queue) batch(ctx context.Context, id string) (*Batch, error) {
	if !isID(id) {
		return nil, fault.NotFound.Errorf("batch %s is not known", id)
	}
	m, err := q.batches.GetLastMsgForSubject(ctx, batchesSubject+id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fault.NotFound.Errorf("batch %s is not known, or not any more", id)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read batch %s: %w", id, err))
	}
	b := &Batch{}
	if err := json.Unmarshal(m.Data, b); err != nil {
		return nil, fmt.Errorf("read batch %s: %w", id, err)
	}
	b.seq = m.Sequence
	return b, nil
}

// saveBatch stores b if nobody else has since it was read, else errConflict.
func (q *Queue) saveBatch(ctx context.Context, b *Batch) error {
	text, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("write batch %s: %w", b.ID, err)
	}
	m := &nats.Msg{Subject: batchesSubject + b.ID, Header: nats.Header{}, Data: text}
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(b.seq, 10))
	seq, err := q.store(ctx, m)
	switch {
	case isConflict(err):
		return errConflict
	case err != nil:
		return refused(fmt.Errorf("store batch %s: %w", b.ID, err))
	}
	b.seq = seq
	return nil
}

// openBatch returns the batch that s belongs to, and makes it if it is new.
// The key of s names it; without one every batch is new.
func (q *Queue) openBatch(ctx context.Context, s Submission) (*Batch, error) {
	queue, err := queueOf(s)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	b := &Batch{ID: newSeed(now).id(rand.Uint64()), Function: s.Function.String(), Queue: queue, Submitted: now}
	if s.Key != "" {
		b.ID = named("batch", s.Function.Namespace, s.Function.Name, s.Caller, s.Key)
	}
	err = q.saveBatch(ctx, b)
	if errors.Is(err, errConflict) {
		return q.batch(ctx, b.ID)
	}
	return b, err
}

// fill puts the documents of next, which ends with io.EOF, into the queue as
// calls of b. The first of them is number from; those that b has already are
// passed over. What has been accepted when it fails stays accepted.
func (q *Queue) fill(ctx context.Context, b *Batch, s Submission, from int, next func() ([]byte, error)) error {
	if from > b.Accepted {
		return fault.Invalid.Errorf("the batch has %d documents, so what follows cannot begin with number %d", b.Accepted, from)
	}
	if b.Complete {
		return nil
	}
	sending, err := q.newPipe()
	if err != nil {
		return err
	}
	defer sending.close()
	saved := time.Now()
	for index, end := from, false; !end; {
		var window []*job
		var failed error
		stored := false
		for failed == nil && !end && !stored && (len(window) == 0 || index%batchWindow != 0) {
			document, err := next()
			switch {
			case errors.Is(err, io.EOF):
				end = true
			case err != nil:
				failed = err
			case index < b.Accepted:
				index++
			default:
				j, err := q.item(ctx, b, s, index, document)
				if err != nil {
					failed = err
					break
				}
				window = append(window, j)
				index++
				// The sweep must not find a body that waits for the rest of a
				// window, for which its sender takes all the time in the world.
				stored = j.Object != ""
			}
		}
		if err := q.publishAll(ctx, sending, window); err != nil {
			return errors.Join(err, q.keep(ctx, b))
		}
		if err := q.savePlaces(ctx, b, window); err != nil {
			return errors.Join(err, q.keep(ctx, b))
		}
		b.Accepted += len(window)
		b.Complete = end
		if failed != nil {
			return errors.Join(failed, q.keep(ctx, b))
		}
		if end || time.Since(saved) > batchSave {
			saved = time.Now()
			if err := q.keep(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep saves b, also when the request that filled it has broken off.
func (q *Queue) keep(ctx context.Context, b *Batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	err := q.saveBatch(ctx, b)
	if errors.Is(err, errConflict) {
		return fault.Exists.Errorf("batch %s is being sent twice at once", b.ID)
	}
	return err
}

// item makes a call of a document.
func (q *Queue) item(ctx context.Context, b *Batch, s Submission, index int, document []byte) (*job, error) {
	j := &job{
		Caller: s.Caller,
		ID:     itemID(b.ID, index), Queue: b.Queue, Ref: s.Function, Request: s.Request,
		Submitted: time.Now().UTC(), Batch: b.ID, Index: index,
	}
	j.Request.Header = s.Request.Header.Clone()
	j.Request.Header.Set(web.HeaderCallID, j.ID)
	if b.Queue != DefaultQueue {
		j.Request.QueueName = b.Queue
	}
	j.Request.Annotations = retryAnnotations(s.Annotations)
	return j, q.takeBody(ctx, j, Submission{Body: bytes.NewReader(document), Length: int64(len(document))})
}

// publishAll stores the calls of a window, together. It waits while the
// backlog is full: whoever sends a batch sends slower, then.
func (q *Queue) publishAll(ctx context.Context, sending *pipe, window []*job) error {
	patience := time.NewTimer(acceptTime / 2)
	defer patience.Stop()
	for len(window) > 0 {
		if err := q.o.Room(); err != nil {
			return err
		}
		messages := make([]*nats.Msg, 0, len(window))
		for _, j := range window {
			m, err := j.encode(callsSubject + subject(j.Queue, j.Ref))
			if err != nil {
				return err
			}
			messages = append(messages, withName(m, j.ID))
		}
		var full []*job
		var failed error
		for i, s := range sending.store(ctx, messages) {
			switch err := refused(s.err); {
			case err == nil:
				window[i].place = s.seq
				q.o.Meter.Submitted(window[i].Queue)
			case errors.Is(err, fault.Busy):
				full = append(full, window[i])
			default:
				failed = err
			}
		}
		if failed != nil {
			return failed
		}
		q.hint(subject(window[0].Queue, window[0].Ref))
		if window = full; len(window) > 0 {
			select {
			case <-time.After(time.Second):
			case <-patience.C:
				q.dropBodies(ctx, window)
				return fault.Busy.Errorf("the backlog is full, and has been for %s: send the rest of the batch later", acceptTime/2)
			case <-ctx.Done():
				q.dropBodies(ctx, window)
				return fault.Unavailable.Errorf("the backlog is full, and the caller has gone: %w", ctx.Err())
			}
		}
	}
	return nil
}

// dropBodies deletes the bodies of calls that were not accepted.
func (q *Queue) dropBodies(ctx context.Context, window []*job) {
	for _, j := range window {
		q.dropBody(ctx, j)
	}
}

// short returns what a batch's result needs of c. What it leaves out of a call
// that went well at once, readEnding puts back.
func short(c *Call) *Call {
	s := *c
	s.Header = nil
	switch {
	case c.State != Done:
		s.Tries = c.Tries[max(0, len(c.Tries)-1):]
	case len(c.Tries) == 1:
		s.Tries = nil
	}
	return &s
}

// resultSubject returns where what c came to, an item of a batch, is stored.
func resultSubject(c *Call) string { return resultsSubject + c.Batch + "." + string(c.State) }

// putResult stores what an item of a batch came to.
func (q *Queue) putResult(ctx context.Context, c *Call, index int, body []byte) error {
	record, err := short(c).encode()
	if err != nil {
		return fmt.Errorf("write result of call %s: %w", c.ID, err)
	}
	messages, _ := bundles([]ending{{subject: resultSubject(c), index: index, record: record, answer: body}})
	for {
		_, err = q.store(ctx, messages[0])
		if err = refused(err); err == nil || !errors.Is(err, fault.Busy) {
			break
		}
		if made, mistake := q.roomForResults(ctx, len(messages[0].Data)); mistake != nil || !made {
			return errors.Join(full("results of batches, none of which has ended", err), mistake)
		}
	}
	if err != nil {
		return fmt.Errorf("store result of call %s: %w", c.ID, err)
	}
	return nil
}

// forgetFailure says that an item of a batch that failed is tried again.
func (q *Queue) forgetFailure(ctx context.Context, j *job) error {
	return q.putResult(ctx, &Call{ID: j.ID, Batch: j.Batch, Index: j.Index, State: resultRetry}, j.Index, nil)
}

// An index knows where in the results stream the results of one batch are. It
// is made by reading their headers, and kept up by reading those that are new.
type index struct {
	mu        sync.Mutex
	next      uint64   // first place that has not been read
	place     []uint64 // of the item's latest result; 0 is none
	state     []byte   // of the item: the first letter of its state
	counts    [256]int // items, by that letter
	lastAsked time.Time
}

// indexes are those of the batches that somebody asked for lately.
type indexes struct {
	mu  sync.Mutex
	all map[string]*index
}

// maxIndexes bounds the indexes that are kept; each takes nine bytes an item.
const maxIndexes = 16

func newIndexes() *indexes { return &indexes{all: map[string]*index{}} }

func (x *indexes) of(batch string) *index {
	x.mu.Lock()
	defer x.mu.Unlock()
	i, ok := x.all[batch]
	if !ok {
		if len(x.all) >= maxIndexes {
			oldest := ""
			for id, other := range x.all {
				if oldest == "" || other.lastAsked.Before(x.all[oldest].lastAsked) {
					oldest = id
				}
			}
			delete(x.all, oldest)
		}
		i = &index{next: 1}
		x.all[batch] = i
	}
	i.lastAsked = time.Now()
	return i
}

// update reads what is new. The caller holds i.mu.
func (i *index) update(ctx context.Context, q *Queue, b *Batch) error {
	info, err := q.results.Info(ctx)
	if err != nil {
		return unavailable(err)
	}
	last := info.State.LastSeq
	if i.next > last {
		return nil
	}
	err = q.scan(ctx, resultsStream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{resultsSubject + b.ID + ".>"}, HeadersOnly: true,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(i.next, info.State.FirstSeq),
	}, func(m jetstream.Msg) bool {
		if meta, err := m.Metadata(); err == nil {
			for number := range strings.SplitSeq(m.Headers().Get(headerIndex), ",") {
				i.add(number, m.Subject(), meta.Sequence.Stream, b.Accepted+batchWindow)
			}
		}
		return true
	})
	if err == nil {
		i.next = max(i.next, last+1)
	}
	return err
}

// add enters one result. Items beyond most are none of the batch's.
func (i *index) add(number, subject string, seq uint64, most int) {
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > most {
		return
	}
	for len(i.place) <= n {
		i.place, i.state = append(i.place, 0), append(i.state, 0)
	}
	i.next = max(i.next, seq+1)
	i.counts[i.state[n]]--
	i.place[n], i.state[n] = seq, subject[strings.LastIndexByte(subject, '.')+1]
	if i.state[n] == resultRetry[0] {
		i.place[n] = 0
	}
	i.counts[i.state[n]]++
}

// Batch returns a batch with its counts.
func (q *Queue) Batch(ctx context.Context, id string) (*Batch, error) {
	b, err := q.batch(ctx, id)
	if err != nil || b.Dropped != nil {
		return b, err
	}
	i := q.indexes.of(id)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.update(ctx, q, b); err != nil {
		return nil, err
	}
	b.Done, b.Failed, b.Cancelled = i.counts[Done[0]], i.counts[Failed[0]], i.counts[Cancelled[0]]
	b.Waiting = max(0, b.Accepted-b.Done-b.Failed-b.Cancelled)
	return b, nil
}

// places returns where the results of b are from item from on, as far as all
// of them have ended.
func (q *Queue) places(ctx context.Context, b *Batch, from int) ([]uint64, error) {
	i := q.indexes.of(b.ID)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.update(ctx, q, b); err != nil {
		return nil, err
	}
	end := from
	for end < len(i.place) && i.place[end] != 0 {
		end++
	}
	if from >= end {
		return nil, nil
	}
	return append([]uint64(nil), i.place[from:end]...), nil
}

// findItem returns an item of a batch that has no record, and the body of its
// answer if that is not in the object store.
func (q *Queue) findItem(ctx context.Context, id, batch string, index int) (*Call, []byte, error) {
	b, err := q.batch(ctx, batch)
	if err != nil {
		return nil, nil, err
	}
	if b.Dropped != nil {
		return nil, nil, fault.Gone.Errorf("call %s is done, and the results of its batch were dropped to make room for others (queue_keep_bytes)", id)
	}
	if index >= b.Accepted {
		return nil, nil, fault.NotFound.Errorf("call %s is not known: batch %s has %d documents so far", id, batch, b.Accepted)
	}
	c := &Call{ID: id, Function: b.Function, Queue: b.Queue, State: Queued, Batch: batch, Submitted: b.Submitted}
	place, err := q.place(ctx, b, index)
	switch {
	case err != nil:
		return nil, nil, err
	case place == 0:
		if q.runs(ctx, id) {
			c.State = Running
		}
		return c, nil, nil
	}
	r := resultReader{q: q}
	c, answer, err := r.read(ctx, place, index)
	if err != nil {
		return nil, nil, fmt.Errorf("find call %s: %w", id, err)
	}
	return c, answer, nil
}

// place returns where the result of one item of b is; 0 if it has none.
func (q *Queue) place(ctx context.Context, b *Batch, index int) (uint64, error) {
	i := q.indexes.of(b.ID)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.update(ctx, q, b); err != nil || index >= len(i.place) {
		return 0, err
	}
	return i.place[index], nil
}

// savePlaces notes where in the calls stream the items of a window are, so
// that one of them is found without reading the others. Windows do not cross
// multiples of batchWindow; one that was broken off is completed by the next.
func (q *Queue) savePlaces(ctx context.Context, b *Batch, window []*job) error {
	if len(window) == 0 {
		return nil
	}
	var places []byte
	if skip := window[0].Index % batchWindow; skip > 0 {
		had, err := q.windowPlaces(ctx, b.ID, window[0].Index)
		if err != nil {
			return err
		}
		for i := range skip {
			place := uint64(0) // unknown
			if i < len(had) {
				place = had[i]
			}
			places = binary.AppendUvarint(places, place)
		}
	}
	for _, j := range window {
		places = binary.AppendUvarint(places, j.place)
	}
	m := &nats.Msg{Subject: windowSubject(b.ID, window[0].Index), Data: places}
	if _, err := q.store(ctx, m); err != nil {
		return refused(fmt.Errorf("store where batch %s is: %w", b.ID, err))
	}
	return nil
}

// windowSubject returns under which subject the places are of the window that
// an item is in.
func windowSubject(batch string, index int) string {
	return batchesSubject + batch + "." + strconv.Itoa(index/batchWindow)
}

// windowPlaces returns the places of the window that an item is in, as far as
// they are known.
func (q *Queue) windowPlaces(ctx context.Context, batch string, index int) ([]uint64, error) {
	m, err := q.batches.GetLastMsgForSubject(ctx, windowSubject(batch, index))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read where batch %s is: %w", batch, err))
	}
	var places []uint64
	for text := m.Data; len(text) > 0; {
		place, n := binary.Uvarint(text)
		if n <= 0 {
			return nil, fmt.Errorf("read where batch %s is: it is broken", batch)
		}
		places, text = append(places, place), text[n:]
	}
	return places, nil
}

// itemPlace returns the place in the calls stream where an item of a batch was
// put; 0 is unknown.
func (q *Queue) itemPlace(ctx context.Context, batch string, index int) (uint64, error) {
	places, err := q.windowPlaces(ctx, batch, index)
	if i := index % batchWindow; err == nil && i < len(places) {
		return places[i], nil
	}
	return 0, err
}

// A BatchResult is one line of a batch's result.
type BatchResult struct {
	Index  int             `json:"index"`
	State  State           `json:"state"`
	Status int             `json:"status,omitempty"` // of the function's answer
	Body   json.RawMessage `json:"body,omitempty"`   // the answer: as it is if it is JSON, else as a string
	Base64 []byte          `json:"base64,omitempty"` // the answer, if it is neither JSON nor text
	Error  string          `json:"error,omitempty"`
}

// A resultReader reads results of batches. It remembers the messages it read
// last, since those of neighbours are often in the same.
type resultReader struct {
	q    *Queue
	held map[uint64]map[int]result // by place and index
	size int                       // bytes of the messages
}

type result struct{ record, answer []byte }

// maxResults bounds what a resultReader remembers, in bytes.
const maxResults = 8 << 20

// read returns an item of a batch from the message at place, and the body of
// its answer if that is not in the object store.
func (r *resultReader) read(ctx context.Context, place uint64, index int) (*Call, []byte, error) {
	if r.held[place] == nil {
		m, err := r.q.results.GetMsg(ctx, place)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, nil, fault.Gone.Errorf("its result is not kept any more (queue_keep_bytes)")
		}
		if err != nil {
			return nil, nil, unavailable(fmt.Errorf("read a result: %w", err))
		}
		if r.size += len(m.Data); r.size > maxResults || r.held == nil {
			r.held, r.size = map[uint64]map[int]result{}, len(m.Data)
		}
		all := map[int]result{}
		numbers := strings.Split(m.Header.Get(headerIndex), ",")
		err = eachEnding(m.Data, func(record, answer []byte) bool {
			if n, err := strconv.Atoi(numbers[0]); err == nil {
				all[n] = result{record, answer}
			}
			numbers = numbers[1:]
			return len(numbers) > 0
		})
		if err != nil {
			return nil, nil, err
		}
		r.held[place] = all
	}
	one, ok := r.held[place][index]
	if !ok {
		return nil, nil, fault.Internal.Errorf("the results at %d lack item %d", place, index)
	}
	c, err := readEnding(one.record)
	return c, one.answer, err
}

// line returns the line of a batch's result for the item whose result is in
// the message at place.
func (r *resultReader) line(ctx context.Context, place uint64, index int) (BatchResult, error) {
	c, body, err := r.read(ctx, place, index)
	if err != nil {
		return BatchResult{}, err
	}
	line := BatchResult{Index: index, State: c.State, Status: c.Status}
	if len(c.Tries) > 0 {
		line.Error = c.Tries[len(c.Tries)-1].Reason
	}
	if c.Object != "" {
		if body, err = r.q.responses.GetBytes(ctx, c.Object); err != nil {
			line.Error = "the result is not kept any more"
		}
	}
	var compact bytes.Buffer
	switch {
	case len(body) == 0:
	case json.Compact(&compact, body) == nil:
		line.Body = compact.Bytes()
	case utf8.Valid(body):
		line.Body, err = json.Marshal(string(body))
	default:
		line.Base64 = body
	}
	return line, err
}

func (a *API) submitBatch(w http.ResponseWriter, r *http.Request, name, rest string) error {
	s, err := a.submission(r, name, rest)
	if err != nil {
		return err
	}
	from, err := readNumber(r, "from")
	if err != nil {
		return err
	}
	next, err := documents(r.Header.Get("Content-Type"), r.Body)
	if err != nil {
		return err
	}
	h := s.Request.Header
	for _, name := range []string{"Content-Length", "Content-Encoding", web.HeaderCallID, headerKey} {
		h.Del(name)
	}
	h.Set("Content-Type", "application/json")
	query := r.URL.Query()
	query.Del("from")
	s.Request.QueryString = query.Encode()
	web.Unbound(w) // a batch takes as long as it takes to send
	span := a.beginSubmission(r, s)
	defer span.End()

	b, err := a.q.openBatch(r.Context(), s)
	if err != nil {
		return err
	}
	w.Header().Set("Location", BatchesPath+b.ID)
	w.Header().Set("X-Batch-Id", b.ID)
	w.Header().Set("Access-Control-Expose-Headers", "X-Batch-Id, Location")
	if err := a.q.fill(r.Context(), b, s, from, next); err != nil {
		return err
	}
	b, err = a.q.Batch(r.Context(), b.ID)
	if err != nil {
		return err
	}
	web.WriteJSON(w, http.StatusAccepted, b)
	return nil
}

func readNumber(r *http.Request, name string) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fault.Invalid.Errorf("%s is %q, want a whole number, 0 or more", name, text)
	}
	return n, nil
}

// findBatch returns a batch that the caller may know of.
func (a *API) findBatch(r *http.Request, id string) (*Batch, error) {
	b, err := a.q.Batch(r.Context(), id)
	if err != nil {
		return nil, err
	}
	ref, err := function.ParseRef(b.Function, function.DefaultNamespace)
	if err != nil {
		return nil, err
	}
	return b, a.o.MayInvoke(r.Context(), ref)
}

func (a *API) getBatch(w http.ResponseWriter, r *http.Request, id string) error {
	b, err := a.findBatch(r, id)
	if err != nil {
		return err
	}
	web.WriteJSON(w, http.StatusOK, b)
	return nil
}

// batchResult answers with one line for each document, in order, from the one
// that the query's from names up to the first that has not ended. Whoever has
// got n lines asks for the rest with from=n.
func (a *API) batchResult(w http.ResponseWriter, r *http.Request, id string) error {
	from, err := readNumber(r, "from")
	if err != nil {
		return err
	}
	b, err := a.findBatch(r, id)
	if err != nil {
		return err
	}
	if b.Dropped != nil {
		return fault.Gone.Errorf("the results of batch %s were dropped %s, to make room for others: collect results soon, or allow the queue to keep more (queue_keep_bytes)", id, b.Dropped.Format(time.RFC3339))
	}
	places, err := a.q.places(r.Context(), b, from)
	if err != nil {
		return err
	}
	web.Unbound(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Batch-Ended", strconv.FormatBool(b.Ended()))
	w.WriteHeader(http.StatusOK)
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	results := resultReader{q: a.q}
	for i, place := range places {
		line, err := results.line(r.Context(), place, from+i)
		if err == nil {
			err = lines.Encode(line)
		}
		if err != nil {
			// The status is out; a broken connection says that lines are missing.
			a.o.Log.Debug("the result of a batch breaks off", "batch", id, "err", err)
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}
