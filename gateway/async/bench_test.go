package async

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

// BenchmarkDrain runs calls of a function that does nothing, from the queue to
// the stored result.
func BenchmarkDrain(b *testing.B) {
	r := rigOn(b, natstest.Start(b), func(http.ResponseWriter, *http.Request) {}, func(o *Options) { o.Log = nil })
	var submitting sync.WaitGroup
	for i := range 16 {
		submitting.Go(func() {
			for range b.N/16 + 1 {
				if _, err := r.Submit(b.Context(), Submission{
					Function: function.Ref{Name: fmt.Sprint("fn", i%4), Namespace: "lab"},
					Request:  types.QueueRequest{Method: "POST", Function: "fn", Header: http.Header{"Content-Type": {"text/plain"}}},
					Body:     strings.NewReader("hello"), Length: 5,
				}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	submitting.Wait()
	b.ResetTimer()
	stop := r.work()
	for {
		backlog, err := r.backlog(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if len(backlog) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	stop()
}
