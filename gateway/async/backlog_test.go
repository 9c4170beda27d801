package async

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/function"
)

func TestTheBacklogIsCountedByFunctionAcrossQueues(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {})
	for _, name := range []string{"fn", "fn", "fn.lab", "slowqueue"} {
		if a := r.do("POST", CallsPath+name, "x"); a.status != http.StatusAccepted {
			t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
	}
	got, err := r.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[function.Ref]int{
		{Name: "fn", Namespace: function.DefaultNamespace}:        2,
		{Name: "fn", Namespace: "lab"}:                            1,
		{Name: "slowqueue", Namespace: function.DefaultNamespace}: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
