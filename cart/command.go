package cart

import (
	"strconv"

	"cartd/crdt"
)

// Command is one change that a caller asks for. It becomes one event.
type Command interface {
	// check refuses what is out of range whatever the cart.
	check(limits Limits) error
	// about returns the line that the command is about; the zero LineRef is none.
	about() LineRef
	// apply makes the delta of the event, or nil where there is nothing to do. key is that of the
	// line it is about, or "" where there is none or its id is of no line that ever was in the
	// cart; present is whether the line is in it.
	apply(e *edit, key string, present bool) (*crdt.Delta, error)
	// append appends the command's canonical form to b.
	append(b []byte) []byte
}

// Details are the registers of a line; nil leaves one as it is.
type Details struct {
	UnitPrice *Money
	Title     *string
	ImageURL  *string
	Metadata  MetadataPatch
}

// MetadataPatch is a merge patch of metadata. [RFC 7396]
type MetadataPatch struct {
	DropAll bool // delete every entry
	Edits   []MetadataEdit
}

// Empty reports whether the patch changes nothing.
func (p MetadataPatch) Empty() bool { return !p.DropAll && len(p.Edits) == 0 }

// MetadataEdit writes an entry of metadata, or deletes it where Value is nil.
type MetadataEdit struct {
	Name  string
	Value *string
}

// LineRef names a line: by its id, or by product where SKU is not empty.
type LineRef struct {
	ID      LineID
	SKU     string
	Options []Pair
	// Required refuses the command with LineNotFound where the line is not in the cart. Else set
	// assigns, and what takes off does nothing.
	Required bool
}

// Add adds units to a line. n adds of one unit and an add of n are the same.
type Add struct {
	Line     LineRef
	Quantity int64
	Details
}

// Set sets the quantity of a line to Quantity, or removes it where that is 0.
type Set struct {
	Line     LineRef
	Quantity int64
	Details
}

// Decrement takes units off a line, which goes where none are left.
type Decrement struct {
	Line     LineRef
	Quantity int64
}

// Remove takes the line off the cart, as far as the caller has seen it.
type Remove struct{ Line LineRef }

// Clear removes all lines, as far as the caller has seen them.
type Clear struct{}

// Describe writes the metadata of a line.
type Describe struct {
	Line LineRef
	Details
}

// PutCode enters a discount code.
type PutCode struct{ Code string }

// RemoveCode takes a discount code off, as far as the caller has seen it.
type RemoveCode struct{ Code string }

// Update writes what is known about the whole cart. A nil pointer leaves a field as it is, and a
// pointer to nil deletes it.
type Update struct {
	Note, Email **string
	Metadata    MetadataPatch
}

// note does nothing but to record the operation id that it comes under.
type note struct{}

// edit is the application of one request to a cart: a state that evolves command by command.
type edit struct {
	event  crdt.Event // of the command that is being applied
	state  *State
	delta  *crdt.Delta // of all commands so far, or nil
	limits Limits
	keys   map[LineID]string // of all lines, once one was asked for by id
}

// apply applies a command under an event.
func (e *edit) apply(event crdt.Event, c Command) error {
	e.event = event
	about := c.about()
	key, line := e.find(about)
	present := line != nil && e.state.Quantity(line) > 0
	if about.Required && !present {
		return errLineNotFound
	}
	delta, err := c.apply(e, key, present)
	if err != nil || delta == nil {
		return err
	}
	delta.Lifetime.Expires = crdt.TimestampAt(event.At.Time().Add(TimeToLive))
	if e.delta == nil { // once a request
		event.Forget(e.state, delta, crdt.TimestampAt(event.At.Time().Add(-RetryWindow)))
	}
	before := e.state
	if e.state, err = before.Apply(delta); err != nil {
		panic(err) // an author has what its own event needs
	}
	if len(e.state.VV) > max(maxReplicas, len(before.VV)) {
		return &Error{Reason: TooLarge, Detail: "more than " + strconv.Itoa(maxReplicas) + " residences have written the cart"}
	}
	switch c.(type) {
	case Remove, Clear: // what they cancel is forgotten in time, and makes room
	default:
		if err := e.checkRecords(before); err != nil {
			return err
		}
	}
	if e.delta == nil {
		e.delta = delta
	} else {
		e.delta = crdt.Merge(e.delta, delta)
	}
	switch c.(type) {
	case Add, Set, Decrement, Describe:
		return e.checkLine(before, key)
	case Update:
		if err := checkMetadataOf(before.Registers, e.state.Registers); err != nil {
			return err
		}
		return e.checkText(before)
	case PutCode:
		return e.checkCodes(before)
	}
	return nil
}

// find returns the key of the line that r names, and the line, or nil where it never was in the cart.
// Then the key is that of the product, or "" where r has none.
func (e *edit) find(r LineRef) (key string, line *crdt.Line) {
	switch {
	case r.SKU != "":
		key = lineKey(r.SKU, r.Options)
		return key, e.state.Line(key)
	case r.ID != (LineID{}):
		if line = e.lineByID(r.ID); line != nil {
			return line.Key, line
		}
	}
	return "", nil
}

// lineByID returns the line of an id, or nil. The ids of all lines are computed once for a request,
// and again when it has added a line.
func (e *edit) lineByID(id LineID) *crdt.Line {
	if len(e.keys) != len(e.state.Lines) {
		e.keys = make(map[LineID]string, len(e.state.Lines))
		for _, l := range e.state.Lines {
			e.keys[lineIDOf(l.Key)] = l.Key
		}
	}
	key, ok := e.keys[id]
	if !ok {
		return nil
	}
	return e.state.Line(key)
}

var errLineNotFound = &Error{Reason: LineNotFound, Detail: "there is no such line in the cart"}

func (c Add) about() LineRef        { return c.Line }
func (c Set) about() LineRef        { return c.Line }
func (c Decrement) about() LineRef  { return c.Line }
func (c Remove) about() LineRef     { return c.Line }
func (c Clear) about() LineRef      { return LineRef{} }
func (c Describe) about() LineRef   { return c.Line }
func (c PutCode) about() LineRef    { return LineRef{} }
func (c RemoveCode) about() LineRef { return LineRef{} }
func (c Update) about() LineRef     { return LineRef{} }

func (note) about() LineRef { return LineRef{} }

func (note) apply(e *edit, _ string, _ bool) (*crdt.Delta, error) {
	return e.event.Touch(e.state), nil
}

func (c Add) apply(e *edit, key string, _ bool) (*crdt.Delta, error) {
	if key == "" {
		return nil, errLineNotFound
	}
	d := e.event.Add(e.state, key, c.Quantity)
	return d, c.write(e, d, key)
}

func (c Set) apply(e *edit, key string, present bool) (*crdt.Delta, error) {
	if c.Quantity == 0 {
		return Remove{c.Line}.apply(e, key, present)
	}
	if key == "" {
		return nil, errLineNotFound
	}
	d := e.event.Assign(e.state, key, c.Quantity)
	return d, c.write(e, d, key)
}

func (c Decrement) apply(e *edit, key string, present bool) (*crdt.Delta, error) {
	if !e.worthAnEvent(present) {
		return nil, nil
	}
	return e.event.Decrement(e.state, key, c.Quantity), nil
}

func (c Remove) apply(e *edit, key string, present bool) (*crdt.Delta, error) {
	if !e.worthAnEvent(present) {
		return nil, nil
	}
	return e.event.Remove(e.state, key), nil
}

// worthAnEvent reports whether a command that changes something, or does not, has to be remembered:
// an operation that found nothing must not find something when it is retried.
func (e *edit) worthAnEvent(changes bool) bool {
	return changes || e.event.Operation != (OperationID{})
}

func (c Clear) apply(e *edit, _ string, _ bool) (*crdt.Delta, error) {
	if !e.worthAnEvent(countLines(e.state) > 0) {
		return nil, nil
	}
	return e.event.Clear(e.state), nil
}

func (c Describe) apply(e *edit, key string, _ bool) (*crdt.Delta, error) {
	if key == "" {
		return nil, errLineNotFound
	}
	if !e.worthAnEvent(!c.Details.empty()) {
		return nil, nil
	}
	d := e.event.Touch(e.state)
	return d, c.write(e, d, key)
}

func (c PutCode) apply(e *edit, _ string, _ bool) (*crdt.Delta, error) {
	// The new member takes the place of all there are, seen or not: it keeps the code in the cart
	// wherever they would have, and they do not pile up under a context that never moves.
	event := e.event
	event.Narrowed = false
	return event.Insert(e.state, c.Code), nil
}

func (c RemoveCode) apply(e *edit, _ string, _ bool) (*crdt.Delta, error) {
	if !e.worthAnEvent(e.state.Members.Has(c.Code)) {
		return nil, nil
	}
	return e.event.Discard(e.state, c.Code), nil
}

func (c Update) apply(e *edit, _ string, _ bool) (*crdt.Delta, error) {
	if !e.worthAnEvent(c.Note != nil || c.Email != nil || !c.Metadata.Empty()) {
		return nil, nil
	}
	d := e.event.Touch(e.state)
	write := func(name string, value *string) {
		e.event.Write(d, name, valueOf(value), value == nil)
	}
	if c.Note != nil {
		write(registerNote, *c.Note)
	}
	if c.Email != nil {
		write(registerEmail, *c.Email)
	}
	c.Metadata.write(e.state.Registers, write)
	return d, nil
}

// write writes the details into the registers of the line of key.
func (c Details) write(e *edit, d *crdt.Delta, key string) error {
	if c.UnitPrice != nil {
		if currency := currencyOf(e.state); c.UnitPrice.Currency != currency {
			return &Error{
				Reason: WrongCurrency, Pointer: "/unit_price/currency",
				Detail: "a price in " + c.UnitPrice.Currency + " in a cart in " + currency,
			}
		}
		e.event.WriteLine(d, key, registerPrice, strconv.FormatInt(c.UnitPrice.Amount, 10), false)
	}
	if c.Title != nil {
		e.event.WriteLine(d, key, registerTitle, *c.Title, false)
	}
	if c.ImageURL != nil {
		e.event.WriteLine(d, key, registerImage, *c.ImageURL, false)
	}
	var registers crdt.Registers
	if l := e.state.Line(key); l != nil {
		registers = l.Registers
	}
	c.Metadata.write(registers, func(name string, value *string) {
		e.event.WriteLine(d, key, name, valueOf(value), value == nil)
	})
	return nil
}

func (c Details) empty() bool {
	return c.UnitPrice == nil && c.Title == nil && c.ImageURL == nil && c.Metadata.Empty()
}

// write calls write for each register that the patch changes; registers are those there are.
func (p MetadataPatch) write(registers crdt.Registers, write func(name string, value *string)) {
	if p.DropAll {
		for name := range metadataOf(registers) {
			write(prefixMetadata+name, nil)
		}
	}
	for _, m := range p.Edits {
		name := prefixMetadata + m.Name
		if _, ok := registers.Get(name); ok || m.Value != nil { // what is not there needs no deletion
			write(name, m.Value)
		}
	}
}

// valueOf returns the value that a register gets; that of a deleted one is empty.
func valueOf(value *string) string {
	if value == nil {
		return ""
	}
	return *value
}
