package gossip

import "context"

// maxOwed bounds the carts that a peer is owed: more than a round of a session can be about.
const maxOwed = 1 << 16

// owe notes that a peer is to get the state of a cart. The mutex is held.
func (c *Core) owe(p *peer, id [16]byte) {
	if _, found := p.owing[id]; found {
		return
	}
	if len(p.owing) == maxOwed {
		c.needSync(p, "it is owed too many carts")
		return
	}
	if p.owing == nil {
		p.owing = make(map[[16]byte]struct{})
	}
	p.owing[id] = struct{}{}
	p.owed.push(id)
	c.sendOwed(p)
}

// sendOwed starts a job that sends what is owed, unless there is one, or no room. The mutex is held.
func (c *Core) sendOwed(p *peer) {
	if p.up && !p.sending && p.owed.len() > 0 && p.roomForState() {
		p.sending = true
		c.o.Spawn(p.start, func(ctx context.Context) { c.sendStates(ctx, p) })
	}
}

// roomForState reports whether so little is on its way to the peer that a state does not make others wait for long.
func (p *peer) roomForState() bool {
	if p.region != nil {
		via := p.region.via
		return via != nil && p.unheld < stateRoom && via.roomForState()
	}
	return p.out.bytes < min(stateRoom, p.out.limit/2)
}

// sendStates sends what is owed while there is room.
func (c *Core) sendStates(ctx context.Context, p *peer) {
	for {
		id, unsaved, some := c.nextOwed(p)
		if !some {
			return
		}
		payloads, held, err := c.payloads(ctx, p, id, unsaved)
		c.mu.Lock()
		if p.own != nil {
			p.own.word = c.o.Now()
		}
		if err != nil {
			c.needSync(p, "a cart for it cannot be loaded")
			p.unloadable = true
			payloads = nil
		}
		for _, payload := range payloads {
			c.sendState(p, item{kind: kindState, id: id, body: payload}, held)
		}
		c.mu.Unlock()
	}
}

// nextOwed returns a cart whose state is to be sent now, or of it what the database lacks. If there is none, the job
// is over. What changes in the cart from here on is not owed, or owed again.
func (c *Core) nextOwed(p *peer) (id [16]byte, unsaved, some bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.up || p.owed.len() == 0 || !p.roomForState() {
		p.sending = false
		c.nextStep(p)
		return id, false, false
	}
	id = p.owed.pop()
	delete(p.owing, id)
	return id, p.own != nil && p.own.unsaved.has(SlotOf(id)), true
}

// step has something done, in a job, when nothing is owed. The mutex is held.
func (c *Core) step(p *peer, do func(context.Context)) {
	p.steps.push(do)
	c.nextStep(p)
}

// nextStep starts the next step, if it may be taken. The mutex is held.
func (c *Core) nextStep(p *peer) {
	if p.stepping || p.sending || p.owed.len() > 0 || p.steps.len() == 0 {
		return
	}
	p.stepping = true
	do := p.steps.pop()
	c.o.Spawn(p.start, func(ctx context.Context) {
		do(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		p.stepping = false
		c.nextStep(p)
	})
}
