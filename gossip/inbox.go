package gossip

// inbox is what is known of the frames that a peer sent since the link came up.
type inbox struct {
	received uint64 // all frames up to this one were taken
	owes     bool   // an acknowledgement is to be sent

	// refused are the items that were not held, in ascending order, of frames whose acknowledgement has
	// not come to the peer as far as is known here.
	refused []refusal
}

// take notes a frame, the one after received, and what of it was refused.
func (in *inbox) take(seq uint64, refused []refusal) {
	in.received = seq
	in.refused = append(in.refused, refused...)
	in.owes = true
}

// confirm takes what the peer says of the acknowledgements that came to it.
func (in *inbox) confirm(acked uint64) {
	if len(in.refused) > maxRefused {
		in.owes = true // the last one could not cover everything
	}
	n := 0
	for n < len(in.refused) && in.refused[n].seq <= acked {
		n++
	}
	if in.refused = in.refused[n:]; len(in.refused) == 0 {
		in.refused = nil
	}
}

// acknowledgement returns the greatest number up to which the refused items can be named, and them.
func (in *inbox) acknowledgement() (ack uint64, refused []refusal) {
	if len(in.refused) <= maxRefused {
		return in.received, in.refused
	}
	n := maxRefused
	for in.refused[n-1].seq == in.refused[maxRefused].seq {
		n--
	}
	return in.refused[maxRefused].seq - 1, in.refused[:n]
}
