package kube

import (
	"slices"
	"sync"

	"github.com/graphene-faas/graphene/internal/fault"
)

// profiles are what operators let functions ask for by name.
type profiles struct {
	changed func(name string)

	mu  sync.Mutex
	all map[string]*Profile
}

func newProfiles(changed func(name string)) *profiles {
	return &profiles{changed: changed, all: map[string]*Profile{}}
}

func (p *profiles) set(profile *Profile) {
	p.mu.Lock()
	p.all[profile.Name] = profile
	p.mu.Unlock()
	p.changed(profile.Name)
}

func (p *profiles) drop(profile *Profile) {
	p.mu.Lock()
	delete(p.all, profile.Name)
	p.mu.Unlock()
	p.changed(profile.Name)
}

// named returns profiles in the given order, or fault.Invalid if one is
// missing.
func (p *profiles) named(names []string) ([]*Profile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*Profile
	for _, name := range names {
		profile, ok := p.all[name]
		if !ok {
			return found, fault.Invalid.Errorf("annotation %s names the profile %q, which does not exist", annotationProfile, name)
		}
		found = append(found, profile)
	}
	return found, nil
}

// profileChanged has the functions that name a profile looked at again.
func (r *Runtime) profileChanged(name string) {
	for _, ref := range r.seen.refs() {
		if s, err := r.seen.look(ref); err == nil && slices.Contains(profileNames(s.function), name) {
			r.changed(ref)
		}
	}
}
