package gossip

import (
	"log/slog"
	"sync"
	"time"
)

// reason is what something from the network was refused for, as metrics and logs name it.
type reason string

// At the gossip port.
const (
	gossipLabel      reason = "gossip-label"      // no label, or that of another cluster
	gossipPlaintext  reason = "gossip-plaintext"  // not encrypted
	gossipKey        reason = "gossip-key"        // encrypted with another key, or changed on the way
	gossipCompressed reason = "gossip-compressed" // compressed, as no node sends it
	gossipSize       reason = "gossip-size"       // a stream that announces more than a stream may have
	gossipSilent     reason = "gossip-silent"     // a stream whose message did not come in time, or was cut off
	gossipCrowd      reason = "gossip-crowd"      // a stream that gave way to newer ones before it had proved anything
	gossipMember     reason = "gossip-member"     // a member whose metadata make no sense
	gossipRegion     reason = "gossip-region"     // a member of another region
	gossipConflict   reason = "gossip-conflict"   // a member whose name or start id another one has
)

// At the link port, and of processes that were dialled.
const (
	linkPlaintext   reason = "link-plaintext"   // no TLS
	linkCertificate reason = "link-certificate" // a certificate that the cluster key did not issue
	linkProtocols   reason = "link-protocol"    // no protocol that is spoken here, or none at all
	linkHandshake   reason = "link-handshake"   // a TLS handshake that failed otherwise
	linkSilent      reason = "link-silent"      // no handshake, or no hello, in time
	linkCrowd       reason = "link-crowd"       // a connection that gave way to newer ones before it had proved anything
	linkHello       reason = "link-hello"       // a hello that makes no sense
	linkIdentity    reason = "link-identity"    // not the process that it says, or that was dialled
	linkStranger    reason = "link-stranger"    // a connection for requests from who is no member here
	linkConflict    reason = "link-conflict"    // a process whose start id another one has
	linkLabel       reason = "link-label"       // a hello with the label of another cluster
	linkRegion      reason = "link-region"      // a hello from another region
	linkWire        reason = "link-wire"        // no common version of the frames
	linkReplaced    reason = "link-replaced"    // a link whose peer came with a new one
	frameSize       reason = "frame-size"       // a frame that is longer than frames may be, or empty
	frameTruncated  reason = "frame-truncated"  // a frame that was cut off
	frameMalformed  reason = "frame-malformed"  // a frame that the core refused
)

var reasons = []reason{
	gossipLabel, gossipPlaintext, gossipKey, gossipCompressed, gossipSize, gossipSilent, gossipCrowd, gossipMember, gossipRegion,
	gossipConflict, linkPlaintext, linkCertificate, linkProtocols, linkHandshake, linkSilent, linkCrowd, linkHello, linkIdentity, linkStranger, linkConflict,
	linkLabel, linkRegion, linkWire, linkReplaced, frameSize, frameTruncated, frameMalformed,
}

// quiet is how long a reason that was logged is not logged again: who sends rubbish does not write the log.
const quiet = 10 * time.Second

// refusals counts what was refused, by reason. It is safe for concurrent use.
type refusals struct {
	logger *slog.Logger

	mu     sync.Mutex
	counts map[reason]uint64
	last   time.Time // of any
	logged map[reason]time.Time
}

func newRefusals(logger *slog.Logger) *refusals {
	r := &refusals{logger: logger, counts: make(map[reason]uint64), logged: make(map[reason]time.Time)}
	for _, why := range reasons {
		r.counts[why] = 0
	}
	return r
}

// add counts, and logs the first of many.
func (r *refusals) add(why reason, from string, err error) {
	now := time.Now()
	r.mu.Lock()
	r.counts[why]++
	r.last = now
	count := r.counts[why]
	last, again := r.logged[why]
	loud := !again || now.Sub(last) >= quiet
	if loud {
		r.logged[why] = now
	}
	r.mu.Unlock()
	if loud {
		r.logger.Warn("gossip: refused", "reason", string(why), "from", from, "error", err, "refused", count)
	}
}

// snapshot returns the counts of all reasons, and when there was the last of any.
func (r *refusals) snapshot() (counts map[string]uint64, last time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts = make(map[string]uint64, len(r.counts))
	for why, n := range r.counts {
		counts[string(why)] = n
	}
	return counts, r.last
}
