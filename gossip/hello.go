package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// hello is what each side of a link says first, as a frame of its own.
type hello struct {
	label string
	Member
}

const (
	maxHello       = 1 << 10 // bytes
	helloFields    = 9       // a later version may add some at the end
	minHelloFields = 8       // before there were bridges
	maxLabel       = 64      // bytes
)

// What a hello is refused for.
var (
	errLabel  = errors.New("another label")
	errRegion = errors.New("another region")
	errBridge = errors.New("another region, and one of the two is no bridge") // now: who is one, some hear late
	errWire   = errors.New("no common version of the frames")
)

func appendHello(b []byte, h hello) []byte {
	b = appendArray(b, helloFields)
	b = appendUint(b, h.MinWire)
	b = appendUint(b, h.MaxWire)
	b = appendString(b, h.label)
	b = appendUint(b, h.Start)
	b = appendString(b, h.Name)
	b = appendString(b, h.Region)
	b = appendString(b, h.Zone)
	b = appendString(b, h.LinkAddr)
	return appendBool(b, h.Bridge)
}

// decodeHello returns the hello. Fields that a later version added are ignored.
func decodeHello(b []byte) (hello, error) {
	r := reader{b: b}
	fields := r.array(1)
	if fields < minHelloFields {
		r.fail("a hello of %d fields", fields)
	}
	h := hello{Member: Member{MinWire: r.uint(), MaxWire: r.uint()}}
	h.label = r.text(maxLabel)
	h.Start = r.uint()
	h.Name = r.text(maxName)
	h.Region = r.text(maxPlace)
	h.Zone = r.text(maxPlace)
	h.LinkAddr = r.text(maxLinkAddr)
	if fields >= helloFields {
		h.Bridge = r.bool()
	}
	if r.err != nil {
		return hello{}, r.err
	}
	h.State = Joining // memberlist tells more
	return h, h.check()
}

// exchangeHello sends ours and returns theirs.
func exchangeHello(conn io.ReadWriter, ours hello) (theirs hello, err error) {
	b := appendHello(make([]byte, frameHeader, maxHello), ours)
	binary.BigEndian.PutUint32(b, uint32(len(b)-frameHeader))
	if _, err := conn.Write(b); err != nil {
		return hello{}, err
	}
	if b, err = readFrame(conn, b[:0], maxHello); err != nil {
		return hello{}, err
	}
	return decodeHello(b)
}

// agree returns the version of the frames that both understand, the highest, unless one refuses the other. Of two
// regions, bridges alone have links.
func (h hello) agree(theirs hello) (wire uint64, err error) {
	wire = min(h.MaxWire, theirs.MaxWire)
	switch {
	case theirs.label != h.label:
		return 0, fmt.Errorf("%w: %q, and here it is %q", errLabel, theirs.label, h.label)
	case theirs.Region != h.Region && h.Bridge != theirs.Bridge:
		return 0, fmt.Errorf("%w: %q, and here it is %q", errBridge, theirs.Region, h.Region)
	case theirs.Region != h.Region && !h.Bridge:
		return 0, fmt.Errorf("%w: %q, and here it is %q", errRegion, theirs.Region, h.Region)
	case wire < max(h.MinWire, theirs.MinWire):
		return 0, fmt.Errorf("%w: %d to %d there, %d to %d here", errWire,
			theirs.MinWire, theirs.MaxWire, h.MinWire, h.MaxWire)
	}
	return wire, nil
}
