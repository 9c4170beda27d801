package function

import (
	"encoding/json"
	"strings"
)

// Endpoints says how one function can be reached at one moment: everything
// the gateway needs to know to send it a request. It is a value; whoever
// publishes a change publishes a new one.
type Endpoints struct {
	Ref
	// Revision changes with every deploy, so that a reader can tell replicas
	// of the new version from those of the old.
	Revision int64 `json:"revision"`
	// Desired is the number of replicas that should run; 0 is asleep.
	Desired int `json:"desired"`
	// Min is the number of replicas to wake the function with, at least 1.
	Min int `json:"min"`
	// Scale is what the function's labels say about its number of replicas.
	Scale Scale `json:"scale"`
	// Room bounds that number besides; nil is no bound.
	Room     *Room     `json:"room,omitempty"`
	Replicas []Replica `json:"replicas,omitempty"`
	// Rest says how the function is kept while Desired is 0, where that is known.
	Rest     *Rest    `json:"rest,omitempty"`
	Settings Settings `json:"settings"`
	// Annotations are those of the function that say how it is called: see
	// [CallAnnotations].
	Annotations map[string]string `json:"annotations,omitempty"`
	// Failure says why the function cannot start, when that is known. It is
	// shown to callers that wait for it, so it holds no secrets.
	Failure string `json:"failure,omitempty"`
	// Waiting says what keeps replicas from starting that may pass by itself,
	// such as a cluster without room that may be about to get a node. Calls go
	// on waiting; it is shown to those who have waited for too long, so it
	// holds no secrets.
	Waiting string `json:"waiting,omitempty"`
	// Note tells people what is particular about how the function runs here,
	// such as why it cannot have more replicas.
	Note string `json:"note,omitempty"`
}

// CallAnnotations returns those of a function's annotations that a gateway
// needs to call it: the ones about asynchronous calls and about who may. It is
// nil if there are none.
func CallAnnotations(all map[string]string) map[string]string {
	var kept map[string]string
	for k, v := range all {
		if k == AnnotationQueue || k == AnnotationPublic || strings.HasPrefix(k, AnnotationRetry) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

// A Replica is one running instance of a function.
type Replica struct {
	ID string `json:"id"`
	// Address is "unix:PATH" or "tcp:HOST:PORT".
	Address  string `json:"address"`
	Revision int64  `json:"revision"`
	// Ready is what the provider last knew. A replica with an address that is
	// not ready yet may be probed by whoever waits for it.
	Ready bool `json:"ready"`
	// Tier is how warm the replica is. One that is not Hot is not Ready and
	// answers nothing, not even a probe, until it is Hot again.
	Tier Tier `json:"tier,omitempty"`
	// Keeps counts how often the replica has ceased to be Hot.
	Keeps int `json:"keeps,omitempty"`
	// Slots is how many requests the replica handles at once; 0 is unlimited.
	Slots int `json:"slots,omitempty"`
	// Guessed says that Slots is only what the settings let one expect. The
	// replica knows better: see [HeaderCapacity].
	Guessed bool `json:"guessed,omitempty"`
	// Startup is what the start of the replica has taken, as far as it is known.
	Startup Startup `json:"startup,omitzero"`
}

// Startup says what the time was spent on until a replica had its address,
// after a place for it was found. What is not known is 0.
type Startup struct {
	Pull  Duration `json:"pull,omitzero"`  // fetching its image
	Start Duration `json:"start,omitzero"` // everything else: its network, its container
}

// HeaderCapacity is a header of a watchdog's answer to /_/ready: how many
// requests at once make its function do all it can, where neither the settings
// nor the number of workers say it.
const HeaderCapacity = "X-Max-Inflight"

// An Event is one line of the provider's endpoints stream. Exactly one of
// Endpoints, Removed, Object and Synced is set.
type Event struct {
	// Epoch names one life of the provider. Revisions of different epochs
	// cannot be compared: after a change of epoch the stream starts over with
	// everything that exists, and what is not in it before Synced is gone.
	Epoch string `json:"epoch"`
	// Revision grows with every event of an epoch. A reader that reconnects
	// names the last one it saw.
	Revision  int64      `json:"revision"`
	Endpoints *Endpoints `json:"endpoints,omitempty"`
	Removed   *Ref       `json:"removed,omitempty"`
	Object    *Object    `json:"object,omitempty"`
	// Synced ends the initial listing; what follows are changes as they happen.
	Synced bool `json:"synced,omitempty"`
	// Reset, on the Synced event, says that the listing was complete: a
	// function that was not in it does not exist any more.
	Reset bool `json:"reset,omitempty"`
}

// An Object is something that gateways must know besides functions, such as
// whom to believe.
type Object struct {
	Kind string `json:"kind"`
	Name string `json:"name"` // unique among those of its kind
	// Content is all there is to know about it; none says that it is gone.
	Content json.RawMessage `json:"content,omitempty"`
}
