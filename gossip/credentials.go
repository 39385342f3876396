package gossip

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"
)

// credentials are what a process proves on its links: that it has a cluster key, and its start id.
//
// A cluster key gives every node that has it the same certificate authority. A process issues itself a
// leaf that carries its start id, signed by the authority of the key in use, and takes the leaf of any
// other process that the authority of one of its keys signed. The certificates never expire: who has
// the key can issue another one at any time, and a clock that is wrong must not part a node from the others.
type credentials struct {
	leaf        tls.Certificate
	inUse       Fingerprint // of the key whose authority signed the leaf
	authorities []authority
	pool        *x509.CertPool // of the authorities
}

// authority is the certificate authority of a key.
type authority struct {
	key    Fingerprint
	root   *x509.Certificate
	signer ed25519.PrivateKey
}

// serverName is the one name in every leaf; which process it is, the start id tells.
const serverName = "cartd"

var (
	notBefore = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // no expiration: RFC 5280, 4.1.2.5
)

// What a connection at the link port is for, as its sides agree in the handshake [RFC 7301].
const (
	linkProtocol    = "cartd-link/1"   // hellos, then frames
	requestProtocol = "cartd-http/1.1" // HTTP/1.1
)

var (
	errHandshake = errors.New("TLS handshake")
	errProtocol  = errors.New("no protocol that is spoken here")
	errIdentity  = errors.New("not the process that it should be")
)

func newCredentials(keys Keyring, start uint64) (*credentials, error) {
	id := &credentials{pool: x509.NewCertPool()}
	for _, k := range keys.keys {
		a, err := newAuthority(k)
		if err != nil {
			return nil, err
		}
		id.authorities = append(id.authorities, a)
		id.pool.AddCert(a.root)
	}
	var err error
	id.inUse = id.authorities[0].key
	id.leaf, err = id.authorities[0].issue(start)
	return id, err
}

func newAuthority(key Key) (authority, error) {
	signer := ed25519.NewKeyFromSeed(key.derive(authorityUse))
	public := signer.Public().(ed25519.PublicKey)
	digest := sha256.Sum256(public)
	root := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "cartd cluster"},
		SubjectKeyId:          digest[:20],
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, public, signer)
	if err != nil {
		return authority{}, err
	}
	root, err = x509.ParseCertificate(rootDER)
	return authority{key.Fingerprint(), root, signer}, err
}

// issue returns a leaf for the process of a start id.
func (a authority) issue(start uint64) (tls.Certificate, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetUint64(start),
		Subject:      pkix.Name{CommonName: formatStart(start)},
		DNSNames:     []string{serverName},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.root, public, a.signer)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// server returns what a connection that was accepted is secured with.
func (id *credentials) server() *tls.Config {
	c := id.config(linkProtocol, requestProtocol)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = id.pool
	c.SessionTicketsDisabled = true
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return slices.Contains(c.NextProtos, p) }) {
			return nil, fmt.Errorf("%w, of %d offered", errProtocol, len(hello.SupportedProtos))
		}
		return nil, nil
	}
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := startOf(s)
		return err
	}
	return c
}

// client returns what a connection to the process of start id peer is secured with.
func (id *credentials) client(peer uint64, protocol string) *tls.Config {
	c := id.config(protocol)
	c.RootCAs = id.pool
	c.ServerName = serverName
	c.VerifyConnection = func(s tls.ConnectionState) error {
		start, err := startOf(s)
		if err == nil && start != peer {
			err = fmt.Errorf("%w: %s answers for %s", errIdentity, formatStart(start), formatStart(peer))
		}
		return err
	}
	return c
}

func (id *credentials) config(protocols ...string) *tls.Config {
	return &tls.Config{
		NextProtos:                  protocols,
		Certificates:                []tls.Certificate{id.leaf},
		MinVersion:                  tls.VersionTLS13,
		DynamicRecordSizingDisabled: true, // a frame is of use when all of it is there
	}
}

// secured is a connection whose sides have proved who they are.
type secured struct {
	*tls.Conn
	protocol     string
	peer         uint64      // start id
	proven, ours Fingerprint // of the keys that the peer and this process proved themselves with
}

// prove shakes hands on a connection that these credentials secure, within proofTime, which goes on after that.
func (id *credentials) prove(ctx context.Context, conn *tls.Conn) (secured, error) {
	if err := conn.SetDeadline(time.Now().Add(proofTime)); err != nil {
		return secured{}, err
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return secured{}, fmt.Errorf("%w: %w", errHandshake, err)
	}
	state := conn.ConnectionState()
	c := secured{Conn: conn, protocol: state.NegotiatedProtocol, ours: id.inUse}
	if c.protocol == "" {
		return secured{}, errProtocol
	}
	var err error
	if c.peer, err = startOf(state); err != nil {
		return secured{}, err
	}
	c.proven, err = id.provenBy(state)
	return c, err
}

// provenBy returns the fingerprint of the key whose authority signed the leaf of the peer, on a connection that
// these credentials verified.
func (id *credentials) provenBy(s tls.ConnectionState) (Fingerprint, error) {
	for _, chain := range s.VerifiedChains {
		for _, a := range id.authorities {
			if chain[len(chain)-1].Equal(a.root) {
				return a.key, nil
			}
		}
	}
	return Fingerprint{}, fmt.Errorf("%w: no authority of it is known", errIdentity)
}

// has reports whether the key of a fingerprint is among those that prove something.
func (id *credentials) has(f Fingerprint) bool {
	return slices.ContainsFunc(id.authorities, func(a authority) bool { return a.key == f })
}

// startOf returns the start id in the leaf of a verified connection.
func startOf(s tls.ConnectionState) (uint64, error) {
	if len(s.VerifiedChains) == 0 {
		return 0, fmt.Errorf("%w: no verified certificate", errIdentity)
	}
	name := s.VerifiedChains[0][0].Subject.CommonName
	start, err := strconv.ParseUint(name, 16, 64)
	if err != nil || name != formatStart(start) {
		return 0, fmt.Errorf("%w: no start id in its certificate", errIdentity)
	}
	return start, nil
}

// formatStart returns a start id as it stands in names, certificates and logs.
func formatStart(start uint64) string { return fmt.Sprintf("%016x", start) }
