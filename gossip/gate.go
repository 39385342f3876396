package gossip

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// maxStream is the bytes of a message on a stream of memberlist: the states of some 1,500 members.
const maxStream = 1 << 20

// What memberlist puts before its messages.
const (
	labelMark      = 244 // then the length of the label, a byte, and the label
	encryptedMark  = 10  // on a stream: then the length of what is encrypted, 4 bytes
	sealHeader     = 13  // the version of the encryption, at most maxSeal, and the nonce
	sealTag        = 16  // at the end of what is encrypted
	maxSeal        = 1
	compressedMark = 9  // what no node of this cluster sends: 30 KB can become 40 MB
	checkedMark    = 12 // then a checksum, 4 bytes, and a message
	checkedHeader  = 5
)

// What the gate refuses a message for.
var (
	errPlaintext  = errors.New("not encrypted")
	errKey        = errors.New("encrypted with another key")
	errSize       = errors.New("too long")
	errCompressed = errors.New("compressed")
)

// gate knows what memberlist's messages have to look like: encrypted with a key of this node and under the
// label of the cluster.
type gate struct {
	label string
	keys  atomic.Pointer[[]cipher.AEAD] // the one in use first
}

func newGate(keys Keyring, label string) (*gate, error) {
	g := &gate{label: label}
	return g, g.setKeys(keys)
}

// setKeys makes keys those that let a message pass.
func (g *gate) setKeys(keys Keyring) error {
	var aeads []cipher.AEAD
	for _, secret := range keys.gossipSecrets() {
		block, err := aes.NewCipher(secret)
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		aeads = append(aeads, aead)
	}
	g.keys.Store(&aeads)
	return nil
}

// refusalOf returns the reason for an error of the gate, or of reading.
func refusalOf(err error) reason {
	switch {
	case errors.Is(err, errLabel):
		return gossipLabel
	case errors.Is(err, errPlaintext):
		return gossipPlaintext
	case errors.Is(err, errKey):
		return gossipKey
	case errors.Is(err, errSize):
		return gossipSize
	case errors.Is(err, errCompressed):
		return gossipCompressed
	}
	return gossipSilent
}

// checkPacket returns what is wrong with a datagram, which it does not change.
func (g *gate) checkPacket(packet []byte) error {
	head := 2 + len(g.label)
	if len(packet) < head || !g.labels(packet[:head]) {
		return errLabel
	}
	return g.check(packet[head:], packet[2:head])
}

// labels reports whether a message may begin with head.
func (g *gate) labels(head []byte) bool {
	return head[0] == labelMark && int(head[1]) == len(g.label) && string(head[2:]) == g.label
}

// check returns what is wrong with what memberlist sealed.
func (g *gate) check(sealed, additional []byte) error {
	if len(sealed) < sealHeader+sealTag || sealed[0] > maxSeal {
		return errPlaintext
	}
	message := g.open(sealed, additional)
	switch {
	case len(message) == 0: // memberlist looks at the first byte unasked
		return errKey
	case message[0] == checkedMark && len(message) > checkedHeader:
		message = message[checkedHeader:]
	}
	if message[0] == compressedMark {
		return errCompressed
	}
	return nil
}

// open returns the message that one of the keys sealed, or nothing.
func (g *gate) open(sealed, additional []byte) []byte {
	for _, aead := range *g.keys.Load() {
		if message, err := aead.Open(nil, sealed[1:sealHeader], sealed[sealHeader:], additional); err == nil {
			return message
		}
	}
	return nil
}

// readStream returns the label and the message of a stream as they came, when they are good. What has
// come, not what was announced, takes memory.
func (g *gate) readStream(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	label := 2 + len(g.label)
	head := label + 5
	if err := readMore(&b, r, label); err != nil {
		return nil, err
	}
	if !g.labels(b.Bytes()) {
		return nil, errLabel
	}
	if err := readMore(&b, r, 1); err != nil {
		return nil, err
	}
	if b.Bytes()[label] != encryptedMark {
		return nil, errPlaintext
	}
	if err := readMore(&b, r, 4); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(b.Bytes()[label+1:])
	if n > maxStream {
		return nil, fmt.Errorf("%w: %d bytes, of %d at most", errSize, n, maxStream)
	}
	if err := readMore(&b, r, int(n)); err != nil {
		return nil, err
	}
	additional := append(bytes.Clone(b.Bytes()[label:head]), g.label...)
	return b.Bytes(), g.check(b.Bytes()[head:], additional)
}

func readMore(b *bytes.Buffer, r io.Reader, n int) error {
	_, err := io.CopyN(b, r, int64(n))
	return err
}
