package async

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Headers of messages. The payload is OpenFaaS's QueueRequest and nothing
// else; what it has no field for is here.
const (
	headerCall      = "Graphene-Call"      // the call's id, or its seed while its place in the stream completes it
	headerBody      = "Graphene-Body"      // name of the body's object, where it is not in the payload
	headerTries     = "Graphene-Tries"     // JSON, the tries that failed so far
	headerSubmitted = "Graphene-Submitted" // time in Unix milliseconds
	headerKeyed     = "Graphene-Keyed"     // set if the call has a record since it was accepted
	headerBatch     = "Graphene-Batch"     // id of the batch the call is part of
	headerIndex     = "Graphene-Index"     // which part of it
	headerDue       = "Graphene-Due"       // time of the next try, in Unix milliseconds
	headerRecord    = "Graphene-Record"    // JSON, on records
	headerQueue     = "Graphene-Queue"     // on dead letters: the queue they come from
	headerCallback  = "Graphene-Callback"  // JSON, on callbacks
	headerCaller    = "Graphene-Caller"    // who submitted the call, escaped as in a query
	headerAlias     = "Graphene-Alias"     // on records that say which call a caller's own id means
)

// A job is a call on its way through the queue.
type job struct {
	ID        string
	Seed      seed // instead of ID, until the call has its place
	Queue     string
	Ref       function.Ref
	Request   types.QueueRequest
	Object    string // name of the body's object; "" if the body is in Request
	Tries     []Try
	Submitted time.Time
	Keyed     bool
	Batch     string
	Index     int
	Caller    string // who submitted it; "" if nobody knows
	place     uint64 // in the calls stream, once it is there; set for items of a batch
}

// A Try is one attempt at a call, as it is shown.
type Try struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Status  int       `json:"status,omitempty"` // of the answer; 0 if there was none
	Reason  string    `json:"reason,omitempty"` // why it did not count as success
}

// encode returns j as a message to subject.
func (j *job) encode(subject string) (*nats.Msg, error) {
	payload, err := json.Marshal(j.Request)
	if err != nil {
		return nil, fault.Invalid.Errorf("write the call as a message: %w", err)
	}
	call := j.ID
	if call == "" {
		call = j.Seed.String()
	}
	h := nats.Header{
		headerCall:      {call},
		headerSubmitted: {strconv.FormatInt(j.Submitted.UnixMilli(), 10)},
	}
	if j.Object != "" {
		h[headerBody] = []string{j.Object}
	}
	if j.Keyed {
		h[headerKeyed] = []string{"1"}
	}
	if j.Caller != "" {
		h[headerCaller] = []string{url.QueryEscape(j.Caller)}
	}
	if j.Batch != "" {
		h[headerBatch] = []string{j.Batch}
		h[headerIndex] = []string{strconv.Itoa(j.Index)}
	}
	if len(j.Tries) > 0 {
		tries, err := json.Marshal(j.Tries)
		if err != nil {
			return nil, fault.Internal.Errorf("write the tries of a call: %w", err)
		}
		h[headerTries] = []string{string(tries)}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: payload}, nil
}

// decode reads what encode wrote; rest is the message's subject without its
// prefix, and seq its place in the calls stream, 0 if it is of another. The
// errors are of messages that no program of ours wrote.
func decode(rest string, h nats.Header, payload []byte, seq uint64) (*job, error) {
	j := &job{}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return nil, fault.Invalid.Errorf("subject of a call is %q, want QUEUE.NAMESPACE.NAME", rest)
	}
	j.Queue, j.Ref = parts[0], function.Ref{Namespace: parts[1], Name: parts[2]}
	if err := json.Unmarshal(payload, &j.Request); err != nil {
		return nil, fault.Invalid.Errorf("read a call: %w", err)
	}
	j.ID = h.Get(headerCall)
	if s, ok := parseSeed(j.ID); ok {
		if seq == 0 {
			return nil, fault.Invalid.Errorf("a call outside the calls stream has no id of its own")
		}
		j.Seed, j.ID = s, s.id(seq)
	}
	if j.ID == "" {
		return nil, fault.Invalid.Errorf("a call has no id")
	}
	j.Object, j.Keyed, j.Batch = h.Get(headerBody), h.Get(headerKeyed) != "", h.Get(headerBatch)
	if tries := h.Get(headerTries); tries != "" {
		if err := json.Unmarshal([]byte(tries), &j.Tries); err != nil {
			return nil, fault.Invalid.Errorf("read the tries of call %s: %w", j.ID, err)
		}
	}
	caller, err := url.QueryUnescape(h.Get(headerCaller))
	if err != nil {
		return nil, fault.Invalid.Errorf("call %s: who submitted it is %q", j.ID, h.Get(headerCaller))
	}
	j.Caller = caller
	ms, err := strconv.ParseInt(h.Get(headerSubmitted), 10, 64)
	if err != nil {
		return nil, fault.Invalid.Errorf("call %s: when it was submitted is %q", j.ID, h.Get(headerSubmitted))
	}
	j.Submitted = time.UnixMilli(ms).UTC()
	if j.Batch != "" {
		if j.Index, err = strconv.Atoi(h.Get(headerIndex)); err != nil {
			return nil, fault.Invalid.Errorf("call %s: index in its batch is %q", j.ID, h.Get(headerIndex))
		}
	}
	return j, nil
}

// hopByHop are the headers of a connection, not of a call.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// endToEnd returns the headers of h that belong to the call.
func endToEnd(h http.Header) http.Header {
	kept := h.Clone()
	dropHopByHop(kept)
	return kept
}

// dropHopByHop removes from h what does not belong to the call.
func dropHopByHop(h http.Header) {
	for _, listed := range h.Values("Connection") {
		for name := range strings.SplitSeq(listed, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}
