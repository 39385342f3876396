package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"cartd/cart"
)

// Forwarder finds the nodes that own a cart.
type Forwarder interface {
	// Forward calls try with one owner of a cart after the other, the best first, until one has answered, and not at
	// all where this node is an owner. It returns true when this node is to answer itself: it is an owner, or none
	// has answered. An owner fills in the host of the URL.
	Forward(id cart.ID, try func(owner http.RoundTripper) (answered bool)) (here bool)
}

// passOn has an owner of its cart answer a request, or next where that is this node.
func (s *Server) passOn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := cart.ParseID(cartIDOf(r))
		if err != nil { // the id of no cart
			next.ServeHTTP(w, r)
			return
		}
		var y *relay
		here := s.forwarder.Forward(id, func(owner http.RoundTripper) bool {
			if y == nil {
				y = s.relay(w, r)
			}
			return y.try(owner)
		})
		switch {
		case y != nil && y.broken:
			panic(http.ErrAbortHandler) // the client is to see that the answer ends early
		case !here:
		case y == nil:
			next.ServeHTTP(w, r)
		default: // an owner may have got it, and has less time left than at first
			ctx, cancel := context.WithDeadline(r.Context(), y.deadline)
			defer cancel()
			next.ServeHTTP(w, y.request(r.WithContext(ctx)))
		}
	})
}

// relay is a request on its way to owners of its cart, and the answer on its way back.
type relay struct {
	server   *Server
	w        http.ResponseWriter
	in       *http.Request
	header   http.Header // of the request, for owners
	body     []byte
	keyed    bool // the key is not the client's
	tries    int
	final    bool // there is no next try
	err      error
	deadline time.Time
	broken   bool // the answer ended early, when some of it was on its way
}

// relay reads a request. One that changes something gets a key where it has none: so it counts once, however many
// owners it is tried at.
func (s *Server) relay(w http.ResponseWriter, r *http.Request) *relay {
	y := &relay{server: s, w: w, in: r, header: r.Header.Clone(), deadline: time.Now().Add(s.timeout)}
	endToEnd(y.header)
	y.header.Del("Expect") // the body is here
	y.header.Set("X-Request-Id", w.Header().Get("X-Request-Id"))
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return y
	case http.MethodPost, http.MethodPatch: // the others have all in their path
		c := scratches.Get().(*scratch)
		defer c.release()
		if _, y.err = c.parse(w, r); y.err != nil {
			return y
		}
		y.body = bytes.Clone(c.body) // a transport may read it later
	}
	if y.keyed = len(y.header["Idempotency-Key"]) == 0; y.keyed {
		y.header.Set("Idempotency-Key", rand.Text())
	}
	return y
}

// request makes r the request that is passed on.
func (y *relay) request(r *http.Request) *http.Request {
	r.Header = y.header
	r.ContentLength = int64(len(y.body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(y.body)), nil }
	r.Body, _ = r.GetBody()
	if r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	return r
}

// patience returns how long an owner may take to begin its answer. That of a write to the database may take long
// where nothing is wrong with the owner; for others there is time to try three.
func (y *relay) patience() time.Duration {
	most := y.server.timeout / 4
	if y.header.Get("Cart-Durability") == "database" {
		most *= 3
	}
	return min(most, time.Until(y.deadline))
}

// try has an owner answer. Any answer is one, 503 too: the owner has asked the other owners and the database before
// it gave up. There is none when the connection ends first, or nothing comes in time. The client's going does not end
// it, as it does not end what is answered here.
func (y *relay) try(owner http.RoundTripper) (answered bool) {
	if y.err != nil {
		y.server.fail(y.w, y.in, y.err)
		return true
	}
	y.tries++
	ctx, cancel := context.WithCancel(context.WithoutCancel(y.in.Context()))
	defer cancel()
	late := time.AfterFunc(y.patience(), cancel)
	defer late.Stop()
	response, err := y.send(ctx, owner)
	if err == nil && y.keyed && response.StatusCode == http.StatusTooManyRequests {
		response.Body.Close()
		response, err = y.sendKeyless(ctx, owner)
	}
	if err != nil {
		y.missed(err)
	} else {
		defer response.Body.Close()
		answered = y.answer(response, late)
	}
	if !answered && y.final {
		y.server.fail(y.w, y.in, &cart.Error{Reason: cart.NotDurable, Detail: "the node that was to make the change did not answer"})
		return true
	}
	return answered
}

// send sends the request to an owner.
func (y *relay) send(ctx context.Context, owner http.RoundTripper) (*http.Response, error) {
	path := &url.URL{Scheme: "https", Path: y.in.URL.Path, RawPath: y.in.URL.RawPath, RawQuery: y.in.URL.RawQuery}
	return owner.RoundTrip(y.request((&http.Request{Method: y.in.Method, URL: path}).WithContext(ctx)))
}

var errNoRoom = errors.New("the cart has no room for a key, and an owner that was tried before may have made the change")

// sendKeyless sends a request that the cart has no room for the key of, and the client gave none, as the client did.
// It would count twice, so it is not sent to another owner, nor after another one.
func (y *relay) sendKeyless(ctx context.Context, owner http.RoundTripper) (*http.Response, error) {
	y.final = true
	if y.tries > 1 {
		return nil, errNoRoom
	}
	y.header = y.header.Clone()
	y.header.Del("Idempotency-Key")
	return y.send(ctx, owner)
}

// pieces are the buffers that answers go through.
var pieces = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// answer passes an answer on. Until the first piece of it is there, which is all of most, it may come to nothing. Each
// further one may take as long as a write.
func (y *relay) answer(response *http.Response, late *time.Timer) (answered bool) {
	piece := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(piece)
	for {
		n, err := fill(response.Body, piece[:])
		if err == nil && !late.Stop() {
			err = context.DeadlineExceeded
		}
		whole := errors.Is(err, io.EOF)
		if err != nil && !whole {
			y.missed(err)
			y.broken = answered
			return answered
		}
		if !answered {
			answered = true
			y.head(response)
		}
		if _, err := y.w.Write(piece[:n]); err != nil || whole {
			return true // of a client that is gone, too
		}
		late.Reset(y.server.timeout)
	}
}

// fill reads until b is full, or to the end, which is io.EOF.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	return n, err
}

// head passes on the status and the headers of an answer.
func (y *relay) head(response *http.Response) {
	endToEnd(response.Header)
	if y.keyed {
		response.Header.Del("Idempotent-Replayed") // of a try before this one
	}
	h := y.w.Header()
	for name, values := range response.Header {
		h[name] = values
	}
	y.w.WriteHeader(response.StatusCode)
}

// missed tells why an owner did not answer, or not to the end.
func (y *relay) missed(err error) {
	y.server.log.Debug("an owner did not answer", "error", err, "method", y.in.Method, "path", y.in.URL.Path,
		"request_id", y.w.Header().Get("X-Request-Id"))
}

// endToEnd removes the headers that are about one connection [RFC 9110, 7.6.1].
func endToEnd(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range []string{
		"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade",
	} {
		delete(h, name)
	}
}
