package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"cartd/cart"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 64 << 10

// scratch is what answering a request needs and the next one can use again.
type scratch struct {
	view   cart.View
	body   []byte
	answer []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxKept bounds what a scratch may hold on to, in bytes.
const maxKept = 1 << 20

func (c *scratch) release() {
	if cap(c.answer) <= maxKept {
		c.view.Reset() // it would keep the cart in memory
		scratches.Put(c)
	}
}

// deadline bounds how long a write may wait. A client that goes away does not end it: its write is
// on its way, and half a connection closed does not mean that nobody reads the answer.
func (s *Server) deadline(r *http.Request) (context.Context, context.CancelFunc) {
	ctx := context.WithoutCancel(r.Context())
	if deadline, ok := r.Context().Deadline(); ok { // owners were tried before
		return context.WithDeadline(ctx, deadline)
	}
	return context.WithTimeout(ctx, s.timeout)
}

// CreateCart makes an anonymous cart.
func (s *Server) CreateCart(w http.ResponseWriter, r *http.Request) {
	c := scratches.Get().(*scratch)
	defer c.release()
	p, err := c.parse(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	currency, steps := p.newCart(s.pricing())
	if p.end(); p.err != nil {
		s.fail(w, r, p.err)
		return
	}
	want, err := durability(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := s.deadline(r)
	defer cancel()
	id, token, result, err := s.service.Create(ctx, currency, steps, want)
	if err != nil {
		s.fail(w, r, pointInto(err, "/line_items/"))
		return
	}
	c.view.Read(id, result.State, s.service.Limits())
	w.Header().Set("Location", "/v1/carts/"+id.String())
	c.answer = appendCart(c.answer[:0], &c.view, &token)
	c.write(w, http.StatusCreated, result.Reached)
}

// GetCart reads a cart.
func (s *Server) GetCart(w http.ResponseWriter, r *http.Request, cartID CartID) {
	c := scratches.Get().(*scratch)
	defer c.release()
	q, err := s.request(r, cartID)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	state, err := s.service.Read(context.WithoutCancel(r.Context()), q.Cart, q.Access, q.Context)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	c.view.Read(q.Cart, state, s.service.Limits())
	if matches(r.Header.Values("If-None-Match"), c.view.Version()) {
		c.writeHead(w, 0)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	c.answer = appendCart(c.answer[:0], &c.view, nil)
	c.write(w, http.StatusOK, cart.Reached{})
}

// EraseCart deletes a cart for good.
func (s *Server) EraseCart(w http.ResponseWriter, r *http.Request, cartID CartID) {
	q, err := s.request(r, cartID)
	var reached cart.Reached
	if err == nil {
		ctx, cancel := s.deadline(r)
		defer cancel()
		reached, err = s.service.Erase(ctx, q)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header()["Cart-Durability"] = durabilityHeader(reached)
	w.WriteHeader(http.StatusNoContent)
}

// UpdateCart changes note, e-mail address or metadata.
func (s *Server) UpdateCart(w http.ResponseWriter, r *http.Request, cartID CartID) {
	s.changeByBody(w, r, cartID, func(p *parser) []cart.Step {
		return []cart.Step{{Command: p.cartPatch()}}
	})
}

// AddLineItem adds units of a product.
func (s *Server) AddLineItem(w http.ResponseWriter, r *http.Request, cartID CartID) {
	s.changeByBody(w, r, cartID, func(p *parser) []cart.Step {
		return []cart.Step{{Command: p.lineItem(s.pricing())}}
	})
}

// ClearLineItems removes all lines.
func (s *Server) ClearLineItems(w http.ResponseWriter, r *http.Request, cartID CartID) {
	s.change(w, r, cartID, cart.Step{Command: cart.Clear{}})
}

// UpdateLineItem changes the quantity or the metadata of a line.
func (s *Server) UpdateLineItem(w http.ResponseWriter, r *http.Request, cartID CartID, lineItemID LineItemID) {
	s.changeByBody(w, r, cartID, func(p *parser) []cart.Step { return p.linePatch(lineOf(lineItemID)) })
}

// RemoveLineItem removes a line.
func (s *Server) RemoveLineItem(w http.ResponseWriter, r *http.Request, cartID CartID, lineItemID LineItemID) {
	s.change(w, r, cartID, cart.Step{Command: cart.Remove{Line: lineOf(lineItemID)}})
}

// PutDiscountCode enters a discount code.
func (s *Server) PutDiscountCode(w http.ResponseWriter, r *http.Request, cartID CartID, code DiscountCode) {
	s.change(w, r, cartID, cart.Step{Command: cart.PutCode{Code: code}})
}

// RemoveDiscountCode takes a discount code off.
func (s *Server) RemoveDiscountCode(w http.ResponseWriter, r *http.Request, cartID CartID, code DiscountCode) {
	s.change(w, r, cartID, cart.Step{Command: cart.RemoveCode{Code: code}})
}

// ApplyOperations applies a list of operations, all or none.
func (s *Server) ApplyOperations(w http.ResponseWriter, r *http.Request, cartID CartID) {
	c := scratches.Get().(*scratch)
	defer c.release()
	var operations []operation
	result, err := s.executeBody(c, w, r, cartID, func(p *parser) []cart.Step {
		operations = p.operations(s.pricing())
		steps := make([]cart.Step, len(operations))
		for i, o := range operations {
			steps[i] = o.step
		}
		return steps
	})
	if err != nil {
		s.fail(w, r, pointInto(err, "/operations/"))
		return
	}
	c.answer = appendResults(c.answer[:0], &c.view, operations, result.Steps)
	c.write(w, http.StatusOK, result.Reached)
}

// lineOf names the line of a path. Text that is not an id names no line that there could be.
func lineOf(lineItemID string) cart.LineRef {
	id, err := cart.ParseLineID(lineItemID)
	if err != nil {
		id = cart.LineID{}
	}
	return cart.LineRef{ID: id, Required: true}
}

// change applies a command that is all in the path, and answers with the cart.
func (s *Server) change(w http.ResponseWriter, r *http.Request, cartID string, step cart.Step) {
	c := scratches.Get().(*scratch)
	defer c.release()
	q, err := s.request(r, cartID)
	var result cart.Result
	if err == nil {
		q.Steps = []cart.Step{step}
		result, err = s.execute(c, w, r, q)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	c.answer = appendCart(c.answer[:0], &c.view, nil)
	c.write(w, http.StatusOK, result.Reached)
}

// changeByBody applies the commands that read finds in the body, and answers with the cart.
func (s *Server) changeByBody(w http.ResponseWriter, r *http.Request, cartID string, read func(*parser) []cart.Step) {
	c := scratches.Get().(*scratch)
	defer c.release()
	result, err := s.executeBody(c, w, r, cartID, read)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	c.answer = appendCart(c.answer[:0], &c.view, nil)
	c.write(w, http.StatusOK, result.Reached)
}

func (s *Server) executeBody(c *scratch, w http.ResponseWriter, r *http.Request, cartID string, read func(*parser) []cart.Step) (cart.Result, error) {
	p, err := c.parse(w, r)
	if err != nil {
		return cart.Result{}, err
	}
	steps := read(p)
	if p.end(); p.err != nil {
		return cart.Result{}, p.err
	}
	q, err := s.request(r, cartID)
	if err != nil {
		return cart.Result{}, err
	}
	q.Steps = steps
	return s.execute(c, w, r, q)
}

// execute executes a request and makes the view that of the cart after it.
func (s *Server) execute(c *scratch, w http.ResponseWriter, r *http.Request, q *cart.Request) (cart.Result, error) {
	ctx, cancel := s.deadline(r)
	defer cancel()
	result, err := s.service.Execute(ctx, q)
	if err != nil {
		return result, err
	}
	if result.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	c.view.Read(q.Cart, result.State, s.service.Limits())
	return result, nil
}

// pointInto makes the error of a step point into the list that the steps came from.
func pointInto(err error, list string) error {
	var step *cart.StepError
	var e *cart.Error
	if !errors.As(err, &step) || !errors.As(err, &e) {
		return err
	}
	inList := *e
	inList.Pointer = list + strconv.Itoa(step.Step) + e.Pointer
	return &inList
}

// request reads what the headers of a request say about a cart.
func (s *Server) request(r *http.Request, cartID string) (*cart.Request, error) {
	id, err := cart.ParseID(cartID)
	if err != nil {
		return nil, cart.ErrNotFound
	}
	q := &cart.Request{Cart: id, Access: cart.Access{Trusted: s.dev}}
	token, _, err := single(r, "Cart-Token")
	if err != nil {
		return nil, err
	}
	if t, err := cart.ParseToken(token); err == nil {
		q.Access.Token = &t
	}
	seen, ok, err := single(r, "Cart-Context")
	if ok && err == nil {
		q.Context, err = cart.ParseContext(id, seen)
	}
	if err != nil || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return q, err
	}
	q.Key, ok, err = single(r, "Idempotency-Key")
	if err == nil && ok && !visible(q.Key, cart.MaxOperationKey) {
		err = &problem{
			kind:   malformedRequest,
			detail: "Idempotency-Key has to be 1 to " + strconv.Itoa(cart.MaxOperationKey) + " visible ASCII characters",
		}
	}
	if err != nil {
		return nil, err
	}
	q.IfMatch = versions(r.Header.Values("If-Match"))
	q.Durability, err = durability(r)
	return q, err
}

// single returns the value of a header that may come once, and whether it is there.
func single(r *http.Request, name string) (value string, ok bool, err error) {
	switch values := r.Header.Values(name); len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	}
	return "", false, &problem{kind: malformedRequest, detail: "the header " + name + " is there more than once"}
}

// durability returns how safe the write is to be before it is answered.
func durability(r *http.Request) (cart.Durability, error) {
	value, ok, err := single(r, "Cart-Durability")
	switch {
	case err != nil || !ok || value == "default":
		return cart.Default, err
	case value == "database":
		return cart.Database, nil
	}
	return cart.Default, &problem{kind: malformedRequest, detail: "Cart-Durability is default or database"}
}

// versions returns the versions that the entity tags of a list name, an empty list where none of
// them is one, and nil where there is no condition.
func versions(headers []string) []uint64 {
	if len(headers) == 0 {
		return nil
	}
	list := []uint64{}
	for _, header := range headers {
		for tag := range strings.SplitSeq(header, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" { // any cart that there is
				return nil
			}
			if version, ok := parseETag(tag); ok {
				list = append(list, version)
			}
		}
	}
	return list
}

// matches reports whether a list of entity tags, compared weakly, names the version.
func matches(headers []string, version uint64) bool {
	for _, header := range headers {
		for tag := range strings.SplitSeq(header, ",") {
			tag = strings.TrimSpace(tag)
			if v, ok := parseETag(strings.TrimPrefix(tag, "W/")); ok && v == version || tag == "*" {
				return true
			}
		}
	}
	return false
}

func (s *Server) pricing() pricing { return pricing(s.dev) }

// parse reads the body of a request.
func (c *scratch) parse(w http.ResponseWriter, r *http.Request) (*parser, error) {
	contentType, _, err := single(r, "Content-Type")
	if err != nil {
		return nil, err
	}
	encoding, _, err := single(r, "Content-Encoding")
	if err != nil {
		return nil, err
	}
	kind, parameters, err := mime.ParseMediaType(contentType)
	patch := r.Method == http.MethodPatch && kind == "application/merge-patch+json"
	charset := parameters["charset"]
	if err != nil || kind != "application/json" && !patch || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, &problem{kind: unsupportedMediaType, detail: "the Content-Type has to be application/json"}
	}
	if encoding != "" && encoding != "identity" {
		return nil, &problem{kind: unsupportedMediaType, detail: "the body must not be encoded"}
	}
	tooLarge := &problem{kind: bodyTooLarge, detail: "the body may have " + strconv.Itoa(maxBody) + " bytes"}
	if r.ContentLength > maxBody {
		w.Header().Set("Connection", "close") // rather than to read all of it
		return nil, tooLarge
	}
	c.body = c.body[:0]
	body := http.MaxBytesReader(w, r.Body, maxBody)
	for {
		if len(c.body) == cap(c.body) {
			c.body = append(c.body, 0)[:len(c.body)]
		}
		n, err := body.Read(c.body[len(c.body):cap(c.body)])
		c.body = c.body[:len(c.body)+n]
		if err == io.EOF {
			break
		}
		var over *http.MaxBytesError
		if errors.As(err, &over) {
			return nil, tooLarge
		}
		if err != nil {
			return nil, &problem{kind: malformedRequest, detail: "the body ended early"}
		}
	}
	return &parser{data: c.body}, nil
}

// Header values that are always the same. A client may keep a cart to ask whether it is still true, and
// nobody else may; an answer with a token is kept by no one.
var (
	contentType  = []string{"application/json"}
	inDatabase   = []string{"database"}
	onPeers      = [...][]string{1: {"peers=1"}, 2: {"peers=2"}, 3: {"peers=3"}, 4: {"peers=4"}}
	cacheControl = []string{"private, no-cache"}
	noStore      = []string{"no-store"}
)

// durabilityHeader says what holds a write, or is nil where there was none.
func durabilityHeader(r cart.Reached) []string {
	switch {
	case r.Database:
		return inDatabase
	case r.Holders < len(onPeers):
		return onPeers[r.Holders]
	}
	return []string{"peers=" + strconv.Itoa(r.Holders)}
}

// writeHead sets the headers that every answer with a cart has. Their names are in the canonical form
// that a Header's methods would bring them into.
func (c *scratch) writeHead(w http.ResponseWriter, length int) {
	b := c.view.AppendContext(c.body[:0])
	context := len(b)
	b = appendETag(b, c.view.Version())
	tag := len(b)
	b = strconv.AppendInt(b, int64(length), 10)
	text := string(b)
	values := []string{text[:context], text[context:tag], text[tag:]}
	h := w.Header()
	if context > 0 {
		h["Cart-Context"] = values[:1:1]
	}
	h["Etag"] = values[1:2:2]
	h["Cache-Control"] = cacheControl
	if length > 0 {
		h["Content-Length"] = values[2:3:3]
		h["Content-Type"] = contentType
	}
}

// write writes the answer that was encoded: of a write, which reached that durability, or of a read, which
// reached none.
func (c *scratch) write(w http.ResponseWriter, status int, reached cart.Reached) {
	c.answer = append(c.answer, '\n')
	c.writeHead(w, len(c.answer))
	h := w.Header()
	if held := durabilityHeader(reached); held != nil {
		h["Cart-Durability"] = held
	}
	if status == http.StatusCreated {
		h["Cache-Control"] = noStore
	}
	w.WriteHeader(status)
	w.Write(c.answer) // the client may be gone; there is nobody to tell
}
