package watchdog

// restful is a mode that can hold less while nobody calls it.
type restful interface {
	// doze has it hold less, if it can be quick again at the next call.
	doze()
	// rouse says that a call is about to come.
	rouse()
	// resting reports whether it holds less now.
	resting() bool
}

// obey does what the platform says on the lifeline.
func (wd *Watchdog) obey(command byte) {
	m, ok := wd.mode.(restful)
	if !ok {
		return
	}
	switch command {
	case commandRest:
		m.doze()
	case commandRouse:
		m.rouse()
	}
}

// doze ends the workers and keeps the zygote, from which the next call gets
// one. Where workers load for themselves it does nothing: they are what is
// loaded.
func (p *pool) doze() {
	p.mu.Lock()
	defer p.unlock()
	if !p.shared || p.zygote == nil || p.ended || p.waiting.Len() > 0 {
		return
	}
	p.asleep = true
	for _, w := range p.workers {
		if !w.retiring && !w.dead {
			p.retire(w)
		}
	}
}

// rouse starts the workers that are kept while idle.
func (p *pool) rouse() {
	p.mu.Lock()
	defer p.unlock()
	p.asleep = false
	for live, _ := p.count(); live < min(p.w.Min, p.w.Max); live++ {
		p.fork()
	}
}

// resting reports whether only the zygote is left.
func (p *pool) resting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asleep && len(p.workers) == 0
}
