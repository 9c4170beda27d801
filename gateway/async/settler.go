package async

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A settler stores what calls came to that have nothing else to leave behind,
// those that end at about the same time together, and acknowledges each of them
// once that is stored. The calls that run need not wait for it.
type settler struct {
	w     *Worker
	ended chan *settlement
	loops sync.WaitGroup
}

// A settlement is a call on its way out of the queue.
type settlement struct {
	*delivery
	ending
	call *Call // its record
}

const (
	settlers  = 2    // exchanges with the broker at once
	unsettled = 1024 // calls that have ended and are not stored; those that end then wait
)

func newSettler(w *Worker) *settler {
	return &settler{w: w, ended: make(chan *settlement, unsettled)}
}

// start begins to take calls; stop ends it when all of them are settled.
func (s *settler) start() {
	for range settlers {
		s.loops.Go(s.run)
	}
}

func (s *settler) stop() {
	close(s.ended)
	s.loops.Wait()
}

func (s *settler) run() {
	var p *pipe
	defer func() {
		if p != nil {
			p.close()
		}
	}()
	for first := range s.ended {
		all := append(make([]*settlement, 0, 64), first)
		for more := true; more && len(all) < unsettled/settlers; {
			select {
			case next, open := <-s.ended:
				if more = open; open {
					all = append(all, next)
				}
			default:
				more = false
			}
		}
		if p == nil {
			var err error
			if p, err = s.w.q.newPipe(); err != nil {
				s.giveUp(all, err)
				continue
			}
		}
		s.settle(p, all)
	}
}

// settle stores all, and acknowledges what is stored.
func (s *settler) settle(p *pipe, all []*settlement) {
	endings := make([]ending, len(all))
	for i, e := range all {
		endings[i] = e.ending
	}
	messages, of := bundles(endings)
	// What has begun is stored also while the worker stops.
	ctx := context.WithoutCancel(s.w.ctx)
	result := p.store(ctx, messages)
	var failed []*settlement
	var reason error
	for i, e := range all {
		if err := refused(result[of[i]].err); err != nil {
			if errors.Is(err, fault.Busy) {
				// One by one there may be room, or else these calls are held.
				if err = s.w.carryOut(ctx, e.delivery, settle, e.call, e.answer, s.w.o.Policy); err == nil {
					s.w.drop(e.delivery)
					continue
				}
			}
			failed, reason = append(failed, e), err
			continue
		}
		if err := e.msg.Ack(); err != nil {
			s.w.log.Warn("a call is settled and may be run again", "call", e.ID, "err", err)
		}
		s.w.q.o.Meter.Processed(e.Queue)
		s.w.q.dropBody(ctx, e.job)
		s.w.drop(e.delivery)
	}
	if len(failed) > 0 {
		s.giveUp(failed, reason)
	}
}

// giveUp leaves calls in the queue whose results cannot be stored. The broker
// delivers them again.
func (s *settler) giveUp(all []*settlement, reason error) {
	s.w.log.Warn("what became of calls cannot be stored; they are run again", "calls", len(all), "err", reason)
	for _, e := range all {
		_ = e.msg.NakWithDelay(time.Second)
		s.w.drop(e.delivery)
	}
}

// ending returns what is to be stored of d, which came to c.
func (d *delivery) ending(c *Call, answer []byte) (ending, error) {
	if d.Batch != "" {
		c = short(c)
	}
	record, err := c.encode()
	if err != nil {
		return ending{}, fmt.Errorf("write record of call %s: %w", c.ID, err)
	}
	e := ending{subject: block(d.seq), index: d.Index, record: record, answer: answer}
	if d.Batch != "" {
		e.subject = resultSubject(c)
	}
	return e, nil
}
