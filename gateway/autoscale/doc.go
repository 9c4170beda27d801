// Package autoscale decides how many replicas each function has, and has it
// done.
//
// [Decide] is a function of a [Policy], which comes from the function's labels,
// and a [History] of [Sample]s; it knows no clock and changes nothing. Around it
// the [Autoscaler] samples what the gateway counts, once a second while a
// function has something to do, and at once when there is more to do than its
// replicas are for. Functions without calls cost nothing.
//
// Every [Decision] carries what it was made of. The latest and the last ones
// that changed something are kept for each function; see [Autoscaler.Explain].
package autoscale
