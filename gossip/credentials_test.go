package gossip

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func containsText(err error, text string) bool { return strings.Contains(err.Error(), text) }

// Two processes that derive the authority from one key trust each other whatever their clocks say.
func TestCredentialsDoNotExpire(t *testing.T) {
	a, b := newCaller(t, testKey, 1), newCaller(t, testKey, 2)
	leaf, err := x509.ParseCertificate(a.leaf.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, now := range []time.Time{time.Unix(0, 0), time.Now().AddDate(0, 0, -9), time.Now(), time.Now().AddDate(100, 0, 0)} {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
			_, err := leaf.Verify(x509.VerifyOptions{
				Roots: b.pool, DNSName: serverName, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use},
			})
			if err != nil {
				t.Errorf("%v: %v", now, err)
			}
		}
	}
	if !a.pool.Equal(b.pool) {
		t.Error("two authorities of one key")
	}
	if a.pool.Equal(newCaller(t, GenerateKey(), 1).pool) {
		t.Error("one authority of two keys")
	}
	if bytes.Contains(a.leaf.Certificate[0], testKey.secret[:]) {
		t.Error("the key is in the certificate")
	}
}
