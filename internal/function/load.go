package function

// A LoadReport is what a gateway tells the provider about its calls in flight,
// so that the replicas with the fewest go first when there are to be less.
type LoadReport struct {
	Gateway string `json:"gateway"` // who reports; the last report of each counts
	// Functions with calls in flight; the others are left out.
	Functions []Load `json:"functions"`
}

// A Load is how many calls each replica of a function is answering.
type Load struct {
	Ref
	Replicas map[string]int `json:"replicas"` // by the replica's ID; never 0
}
