package gossip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The bytes that a field of a member has at most, so that the metadata of a member fit into the 512
// that memberlist carries.
const (
	maxMetadata = 512
	maxPlace    = 64  // a region, a zone
	maxLinkAddr = 64  // an address and a port
	maxAPIAddr  = 262 // a DNS name and a port
	maxName     = 96  // a gossip address and a start id
	maxPrints   = MaxKeys * len(Fingerprint{})
	maxWANAddr  = 18 // an address without a zone, and a port, in binary
)

// The number of fields of metadata. A later version may add some at the end.
const (
	metadataFields    = 11
	minMetadataFields = 8 // before there were the fingerprints of keys, and then roles and the WAN address
)

// roleBridge is a role of a member, which are one field.
const roleBridge = 1

// encodeMetadata returns what memberlist carries of a member beside its name and its gossip address.
func encodeMetadata(m Member) []byte {
	b := appendArray(nil, metadataFields)
	b = appendUint(b, m.Start)
	b = appendString(b, m.Region)
	b = appendString(b, m.Zone)
	b = appendUint(b, uint64(m.State))
	b = appendAddr(b, m.LinkAddr)
	b = appendString(b, m.APIAddr)
	b = appendUint(b, m.MinWire)
	b = appendUint(b, m.MaxWire)
	var prints []byte
	for _, f := range m.Keys {
		prints = append(prints, f[:]...)
	}
	b = appendBytes(b, prints)
	var roles uint64
	if m.Bridge {
		roles |= roleBridge
	}
	b = appendUint(b, roles)
	return appendAddr(b, m.WANAddr)
}

// appendAddr appends an address in binary, and one that is none as empty.
func appendAddr(b []byte, addr string) []byte {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return appendBytes(b, nil)
	}
	binary, _ := a.MarshalBinary() // it never fails
	return appendBytes(b, binary)
}

// decodeMetadata returns the member that has the name and the gossip address. Fields that a later
// version added are ignored.
func decodeMetadata(name, gossipAddr string, b []byte) (Member, error) {
	if len(b) > maxMetadata {
		return Member{}, fmt.Errorf("%w: %d bytes of metadata", ErrMalformed, len(b))
	}
	r := reader{b: b}
	fields := r.array(1)
	if fields < minMetadataFields {
		r.fail("metadata of %d fields", fields)
	}
	m := Member{
		Name:       name,
		GossipAddr: gossipAddr,
		Start:      r.uint(),
		Region:     r.text(maxPlace),
		Zone:       r.text(maxPlace),
		State:      memberState(r.uint()),
		LinkAddr:   r.addr(maxLinkAddr),
		APIAddr:    r.text(maxAPIAddr),
		MinWire:    r.uint(),
		MaxWire:    r.uint(),
	}
	if fields > minMetadataFields {
		m.Keys = r.fingerprints()
	}
	if fields >= metadataFields {
		roles := r.uint() // a later version may have more of them
		m.Bridge = roles&roleBridge != 0
		m.WANAddr = r.addr(maxWANAddr)
	}
	if r.err != nil {
		return Member{}, r.err
	}
	return m, m.check()
}

// addr reads an address of so many bytes at most, or none.
func (r *reader) addr(most int) string {
	b := r.bytes(most)
	if len(b) == 0 {
		return ""
	}
	var a netip.AddrPort
	if err := a.UnmarshalBinary(b); err != nil {
		r.fail("an address: %v", err)
		return ""
	}
	return a.String()
}

// fingerprints reads those of the keys of a member.
func (r *reader) fingerprints() (prints []Fingerprint) {
	b := r.bytes(maxPrints)
	if len(b)%len(Fingerprint{}) != 0 {
		r.fail("fingerprints of %d bytes", len(b))
		return nil
	}
	for f := range slices.Chunk(b, len(Fingerprint{})) {
		prints = append(prints, Fingerprint(f))
	}
	return prints
}

// check returns what is wrong with a member.
func (m Member) check() error {
	_, err := netip.ParseAddrPort(m.LinkAddr)
	switch {
	case m.Start == 0:
		return fmt.Errorf("%w: no start id", ErrMalformed)
	case len(m.Name) > maxName || !strings.HasSuffix(m.Name, "/"+formatStart(m.Start)):
		return fmt.Errorf("%w: the name %.*q of start id %s", ErrMalformed, maxName, m.Name, formatStart(m.Start))
	case len(m.Region) > maxPlace, len(m.Zone) > maxPlace:
		return fmt.Errorf("%w: a region or zone of more than %d bytes", ErrMalformed, maxPlace)
	case len(m.APIAddr) > maxAPIAddr:
		return fmt.Errorf("%w: an API address of more than %d bytes", ErrMalformed, maxAPIAddr)
	case err != nil || len(m.LinkAddr) > maxLinkAddr:
		return fmt.Errorf("%w: the link address %.*q", ErrMalformed, maxLinkAddr, m.LinkAddr)
	case m.WANAddr != "" && !isWANAddr(m.WANAddr):
		return fmt.Errorf("%w: the WAN address %.*q", ErrMalformed, maxLinkAddr, m.WANAddr)
	case m.State == 0:
		return fmt.Errorf("%w: no state", ErrMalformed)
	case len(m.Keys) > MaxKeys:
		return fmt.Errorf("%w: %d keys", ErrMalformed, len(m.Keys))
	case m.MinWire == 0 || m.MinWire > m.MaxWire:
		return fmt.Errorf("%w: wire versions %d to %d", ErrMalformed, m.MinWire, m.MaxWire)
	}
	return nil
}

// isWANAddr reports whether the address is one that memberlist tells of a member as it is here: it knows no zones, and IPv4
// in one way only.
func isWANAddr(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Port() != 0 && !a.Addr().IsUnspecified() && a.Addr() == a.Addr().Unmap().WithZone("")
}

// memberState returns the state n, or none where it is not one that a byte can hold. States that this
// version does not know are kept.
func memberState(n uint64) MemberState {
	if n > 0xff {
		return 0
	}
	return MemberState(n)
}
