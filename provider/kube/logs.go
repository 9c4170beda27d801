package kube

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/logs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/graphene-faas/graphene/internal/function"
)

// reopen is the pause before a log is followed again that ended though its
// container may still run, as when the API server restarts.
const reopen = 250 * time.Millisecond

// Query implements package provider's Logs. What was printed so far comes in
// order, by the times that the kubelets noted; what follows comes as it comes.
func (r *Runtime) Query(ctx context.Context, request logs.Request) (<-chan logs.Message, error) {
	ref := function.Ref{Name: request.Name, Namespace: request.Namespace}
	s, err := r.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	messages := make(chan logs.Message)
	q := &logQuery{r, request, ref, messages}
	go func() {
		defer close(messages)
		last := q.past(ctx, s)
		if request.Follow {
			q.follow(ctx, last)
		}
	}()
	return messages, nil
}

// A logQuery answers one query.
type logQuery struct {
	*Runtime
	logs.Request
	ref function.Ref
	to  chan<- logs.Message
}

// send returns false when nobody listens any more.
func (q *logQuery) send(ctx context.Context, m logs.Message) bool {
	select {
	case q.to <- m:
		return true
	case <-ctx.Done():
		return false
	}
}

func (q *logQuery) wants(pod string) bool { return q.Instance == "" || q.Instance == pod }

// past sends what there is, and returns when each pod said its last.
func (q *logQuery) past(ctx context.Context, s snapshot) map[string]time.Time {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last := map[string]time.Time{}
	var open []*podLog
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(s.pods)) {
		if !q.wants(name) {
			continue
		}
		for _, options := range q.containers(s.pods[name]) {
			// A container may not have started, or its log be gone: then it
			// has nothing to say.
			if l, err := q.open(ctx, name, options); err == nil && l.next() {
				open = append(open, l)
			} else if err == nil {
				l.Close()
			}
		}
	}
	keep := make([]logs.Message, 0, max(0, q.Tail)) // the last ones, when only those are wanted
	for len(open) > 0 {
		i := 0
		for j := range open {
			if open[j].message.Timestamp.Before(open[i].message.Timestamp) {
				i = j
			}
		}
		m := open[i].message
		last[m.Instance] = m.Timestamp
		if !open[i].next() {
			open[i].Close()
			open = slices.Delete(open, i, i+1)
		}
		if q.Tail <= 0 {
			if !q.send(ctx, m) {
				return last
			}
			continue
		}
		if len(keep) == q.Tail {
			keep = slices.Delete(keep, 0, 1)
		}
		keep = append(keep, m)
	}
	for _, m := range keep {
		if !q.send(ctx, m) {
			return last
		}
	}
	return last
}

// containers returns what to ask for of a pod: the container that ended last,
// if it was started again, and the one there is.
func (q *logQuery) containers(p *corev1.Pod) []corev1.PodLogOptions {
	o := corev1.PodLogOptions{Container: q.Name, Timestamps: true}
	if q.Tail > 0 {
		o.TailLines = new(int64(q.Tail))
	}
	if q.Since != nil {
		o.SinceTime = new(metav1.NewTime(*q.Since))
	}
	all := []corev1.PodLogOptions{o}
	for _, c := range p.Status.ContainerStatuses {
		if c.RestartCount > 0 {
			o.Previous = true
			all = append([]corev1.PodLogOptions{o}, all...)
		}
	}
	return all
}

// A podLog reads the log of one container.
type podLog struct {
	io.Closer
	lines   *bufio.Reader
	from    logs.Message // without what was printed
	since   time.Time
	message logs.Message // what next has read
}

func (q *logQuery) open(ctx context.Context, pod string, o corev1.PodLogOptions) (*podLog, error) {
	stream, err := q.clients.CoreV1().Pods(q.ref.Namespace).GetLogs(pod, &o).Stream(ctx)
	if err != nil {
		return nil, err
	}
	l := &podLog{Closer: stream, lines: bufio.NewReader(stream), from: logs.Message{Name: q.Name, Namespace: q.ref.Namespace, Instance: pod}}
	if q.Since != nil {
		l.since = *q.Since
	}
	return l, nil
}

// next reads one message; false is the end.
func (l *podLog) next() bool {
	for {
		line, err := l.lines.ReadString('\n')
		if line == "" && err != nil {
			return false
		}
		m := l.from
		m.Timestamp, m.Text = parseLine(line)
		if !m.Timestamp.Before(l.since) {
			l.message = m
			return true
		}
	}
}

// parseLine splits off the time that the kubelet puts before a line. The text
// always ends the line.
func parseLine(line string) (time.Time, string) {
	line = strings.TrimSuffix(line, "\n")
	stamp, text, _ := strings.Cut(line, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return time.Time{}, line + "\n"
	}
	return at.UTC(), text + "\n"
}

// follow sends what pods print after the times in last, of pods that come
// later too, until the function is removed or ctx ends.
func (q *logQuery) follow(ctx context.Context, last map[string]time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	var pods sync.WaitGroup
	defer pods.Wait()
	defer cancel()
	followed := map[string]bool{}
	for {
		changes := q.seen.changes(q.ref)
		s, err := q.seen.look(q.ref)
		if err != nil {
			return
		}
		for name := range s.pods {
			if !followed[name] && q.wants(name) {
				followed[name] = true
				pods.Go(func() { q.followPod(ctx, name, last[name]) })
			}
		}
		maps.DeleteFunc(followed, func(name string, _ bool) bool { return s.pods[name] == nil })
		select {
		case <-changes:
		case <-ctx.Done():
			return
		}
	}
}

// followPod sends what one pod prints after a time, until the pod is gone.
func (q *logQuery) followPod(ctx context.Context, pod string, after time.Time) {
	ended := "" // the container whose log has been read to its end
	for {
		changes := q.seen.changes(q.ref)
		s, err := q.seen.look(q.ref)
		if err != nil || s.pods[pod] == nil {
			return
		}
		id, running := containerOf(s.pods[pod])
		if id == "" || id == ended {
			select {
			case <-changes:
				continue
			case <-ctx.Done():
				return
			}
		}
		err = q.followContainer(ctx, pod, &after)
		if err == nil && !running {
			ended = id
			continue
		}
		select {
		case <-time.After(reopen):
		case <-ctx.Done():
			return
		}
	}
}

// containerOf identifies the container that a pod runs, or has run last.
func containerOf(p *corev1.Pod) (id string, running bool) {
	for _, c := range p.Status.ContainerStatuses {
		return c.ContainerID, c.State.Running != nil
	}
	return "", false
}

// followContainer sends what the pod's container prints, until it ends.
func (q *logQuery) followContainer(ctx context.Context, pod string, after *time.Time) error {
	o := corev1.PodLogOptions{Container: q.Name, Timestamps: true, Follow: true}
	if !after.IsZero() {
		o.SinceTime = new(metav1.NewTime(*after)) // in whole seconds, so some of it is known
	} else if q.Since != nil {
		o.SinceTime = new(metav1.NewTime(*q.Since))
	}
	l, err := q.open(ctx, pod, o)
	if err != nil {
		return err
	}
	defer l.Close()
	for l.next() {
		if !l.message.Timestamp.IsZero() && !l.message.Timestamp.After(*after) {
			continue
		}
		*after = l.message.Timestamp
		if !q.send(ctx, l.message) {
			return errors.New("nobody listens")
		}
	}
	return nil
}
