package gossip

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// testMember returns a member that is as large as one can be.
func testMember() Member {
	const start = 1<<64 - 1
	gossip := "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
	return Member{
		Start:      start,
		Name:       gossip + "/" + formatStart(start),
		Region:     strings.Repeat("r", maxPlace),
		Zone:       strings.Repeat("z", maxPlace),
		State:      0xff, // of a later version
		LinkAddr:   "[2001:db8:1111:2222:3333:4444:5555:6666%interface0abcdef]:65534",
		GossipAddr: gossip,
		APIAddr:    strings.Repeat("a", maxAPIAddr),
		MinWire:    1<<64 - 2,
		MaxWire:    1<<64 - 1,
		Keys:       []Fingerprint{{1}, {2}, {3}, {4}},
		WANAddr:    "[2001:db8:1111:2222:3333:4444:5555:6666]:65533",
		Bridge:     true,
	}
}

func TestMetadata(t *testing.T) {
	m := testMember()
	b := encodeMetadata(m)
	if len(b) > maxMetadata {
		t.Fatalf("%d bytes", len(b))
	}
	if got, err := decodeMetadata(m.Name, m.GossipAddr, b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%v\n%+v\n%+v", err, got, m)
	}
	for n := range b {
		if _, err := decodeMetadata(m.Name, m.GossipAddr, b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := decodeMetadata(m.Name, m.GossipAddr, make([]byte, maxMetadata+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
}

func TestMetadataOfLaterVersions(t *testing.T) {
	m := testMember()
	m.APIAddr = ""
	b := encodeMetadata(m)
	b[0]++              // one field more
	b[len(b)-1] |= 0x70 // more roles
	b = appendString(b, "what this version does not know")
	if got, err := decodeMetadata(m.Name, m.GossipAddr, b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%v\n%+v", err, got)
	}
}

// A process of a version that told nothing of its roles, or of its keys either, is a member all the same.
func TestMetadataOfEarlierVersions(t *testing.T) {
	m := testMember()
	m.WANAddr, m.Bridge = "", false
	b := encodeMetadata(m)
	b = b[:len(b)-3] // with the empty address
	b[0] -= 2
	if got, err := decodeMetadata(m.Name, m.GossipAddr, b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("without roles: %v\n%+v", err, got)
	}
	m.Keys = nil
	b = encodeMetadata(m)
	b = b[:len(b)-5] // without the empty list, too
	b[0] -= 3
	if got, err := decodeMetadata(m.Name, m.GossipAddr, b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("without keys: %v\n%+v", err, got)
	}
}

func TestMetadataRefusesFingerprints(t *testing.T) {
	m := testMember()
	m.Keys = nil
	m.WANAddr, m.Bridge = "", false
	b := encodeMetadata(m)
	b = b[:len(b)-5]
	for n, valid := range map[int]bool{0: true, 1: false, 4: true, 5: false, maxPrints: true, maxPrints + 1: false, maxPrints + 4: false} {
		prints := appendBytes(b[:len(b):len(b)], make([]byte, n))
		_, err := decodeMetadata(m.Name, m.GossipAddr, appendAddr(appendUint(prints, 0), ""))
		if valid && err != nil || !valid && !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// A WAN address is one that memberlist can tell of, or none.
func TestMetadataRefusesWANAddresses(t *testing.T) {
	m := testMember()
	m.WANAddr = ""
	b := encodeMetadata(m)
	b = b[:len(b)-2]
	for n := range 2 * maxWANAddr {
		_, err := decodeMetadata(m.Name, m.GossipAddr, appendBytes(b[:len(b):len(b)], bytes.Repeat([]byte{7}, n)))
		if valid := n == 0 || n == 6 || n == 18; valid && err != nil || !valid && !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestMemberCheck(t *testing.T) {
	for name, spoil := range map[string]func(*Member){
		"no start id":    func(m *Member) { m.Start = 0 },
		"another's name": func(m *Member) { m.Start-- },
		"name":           func(m *Member) { m.Name = strings.Repeat("n", maxName) + m.Name },
		"region":         func(m *Member) { m.Region += "r" },
		"zone":           func(m *Member) { m.Zone += "z" },
		"no state":       func(m *Member) { m.State = 0 },
		"no link":        func(m *Member) { m.LinkAddr = "" },
		"link by name":   func(m *Member) { m.LinkAddr = "localhost:1" },
		"API":            func(m *Member) { m.APIAddr += "a" },
		"WAN by name":    func(m *Member) { m.WANAddr = "localhost:1" },
		"WAN zone":       func(m *Member) { m.WANAddr = "[fe80::1%eth0]:1" },
		"WAN mapped":     func(m *Member) { m.WANAddr = "[::ffff:10.0.0.1]:1" },
		"WAN nowhere":    func(m *Member) { m.WANAddr = "0.0.0.0:1" },
		"WAN port":       func(m *Member) { m.WANAddr = "10.0.0.1:0" },
		"keys":           func(m *Member) { m.Keys = append(m.Keys, Fingerprint{5}) },
		"no wire":        func(m *Member) { m.MinWire = 0 },
		"wires":          func(m *Member) { m.MinWire, m.MaxWire = 2, 1 },
	} {
		m := testMember()
		spoil(&m)
		if err := m.check(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHello(t *testing.T) {
	m := testMember()
	m.State, m.APIAddr, m.GossipAddr, m.Keys, m.WANAddr = Joining, "", "", nil, ""
	h := hello{label: strings.Repeat("l", maxLabel), Member: m}
	b := appendHello(nil, h)
	if len(b) > maxHello {
		t.Fatalf("%d bytes", len(b))
	}
	if got, err := decodeHello(b); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("%v\n%+v\n%+v", err, got, h)
	}
	for n := range b {
		if _, err := decodeHello(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	b[0]++
	if got, err := decodeHello(appendUint(b, 7)); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("of a later version: %v\n%+v", err, got)
	}
	b[0] -= 2
	h.Bridge = false
	if got, err := decodeHello(b[:len(b)-1]); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("of an earlier version: %v\n%+v", err, got)
	}
}

func TestHelloAgrees(t *testing.T) {
	wires := func(low, high uint64) hello {
		return hello{label: "l", Member: Member{Region: "r", MinWire: low, MaxWire: high}}
	}
	other := func(label, region string) hello {
		return hello{label: label, Member: Member{Region: region, MinWire: 2, MaxWire: 4}}
	}
	bridge := func(h hello) hello {
		h.Bridge = true
		return h
	}
	for _, tt := range []struct {
		theirs hello
		wire   uint64
		err    error
	}{
		{wires(2, 4), 4, nil},
		{wires(1, 2), 2, nil},
		{wires(4, 9), 4, nil},
		{wires(3, 3), 3, nil},
		{wires(1, 1), 0, errWire},
		{wires(5, 9), 0, errWire},
		{other("m", "r"), 0, errLabel},
		{other("l", "s"), 0, errRegion},
		{bridge(other("l", "s")), 0, errBridge},
		{bridge(wires(2, 4)), 4, nil},
	} {
		if wire, err := wires(2, 4).agree(tt.theirs); wire != tt.wire || !errors.Is(err, tt.err) {
			t.Errorf("%+v: %d, %v", tt.theirs, wire, err)
		}
	}
	ours := bridge(wires(2, 4))
	if wire, err := ours.agree(bridge(other("l", "s"))); wire != 4 || err != nil {
		t.Errorf("bridges of two regions: %d, %v", wire, err)
	}
	if _, err := ours.agree(other("l", "s")); !errors.Is(err, errBridge) {
		t.Errorf("a bridge and another region's node: %v", err)
	}
}

func FuzzMetadata(f *testing.F) {
	m := testMember()
	f.Add(encodeMetadata(m))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeMetadata(m.Name, m.GossipAddr, b)
		if err != nil {
			return
		}
		if again, err := decodeMetadata(m.Name, m.GossipAddr, encodeMetadata(got)); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%v\n%+v\n%+v", err, got, again)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(appendHello(nil, hello{label: "cartd", Member: testMember()}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeHello(b)
		if err != nil {
			return
		}
		if again, err := decodeHello(appendHello(nil, got)); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%v\n%+v\n%+v", err, got, again)
		}
	})
}
