package api

import (
	"slices"
	"strings"

	"cartd/cart"
)

// The readers of bodies: JSON in, commands out. What only the cart can tell, and ranges, are left to
// package cart.

// pricing is whether a caller's prices, titles and images are taken.
type pricing bool

func (p *parser) money() *cart.Money {
	m := &cart.Money{}
	var amount, currency bool
	p.object(func(name string) {
		switch name {
		case "amount":
			m.Amount, amount = p.integer(), true
		case "currency":
			m.Currency, currency = p.string(), true
		default:
			p.unknown(name)
		}
	})
	if p.err == nil && !(amount && currency) {
		p.invalid("amount and currency are both needed")
	}
	return m
}

// strings reads an object whose values are strings.
func (p *parser) strings() (pairs []cart.Pair) {
	p.object(func(name string) {
		pairs = append(pairs, cart.Pair{Name: name, Value: p.string()})
	})
	return pairs
}

// mergePatch reads an object whose values are strings, or null where an entry is to go; or null
// where all are.
func (p *parser) mergePatch() (patch cart.MetadataPatch) {
	if p.null() {
		patch.DropAll = true
		return patch
	}
	p.object(func(name string) {
		edit := cart.MetadataEdit{Name: name}
		if !p.null() {
			value := p.string()
			edit.Value = &value
		}
		patch.Edits = append(patch.Edits, edit)
	})
	return patch
}

// metadata reads the metadata of an add: an object whose values are strings.
func (p *parser) metadata() (patch cart.MetadataPatch) {
	for _, pair := range p.strings() {
		patch.Edits = append(patch.Edits, cart.MetadataEdit{Name: pair.Name, Value: &pair.Value})
	}
	return patch
}

// detail reads a member that is about a line's registers, and reports whether it was one.
func (p *parser) detail(name string, d *cart.Details, may pricing) bool {
	switch name {
	case "unit_price":
		d.UnitPrice = p.money()
	case "title":
		title := p.string()
		d.Title = &title
	case "image_url":
		url := p.string()
		d.ImageURL = &url
	case "metadata":
		d.Metadata = p.metadata()
		return true
	default:
		return false
	}
	if !may {
		p.invalid("prices, titles and images are the shop's own: they are not taken from this caller")
	}
	return true
}

// lineItem reads the body of an add.
func (p *parser) lineItem(may pricing) cart.Add {
	c := cart.Add{Quantity: 1}
	known := false
	p.object(func(name string) {
		switch name {
		case "sku":
			c.Line.SKU, known = p.string(), true
		case "quantity":
			c.Quantity = p.integer()
		case "options":
			c.Line.Options = p.strings()
		default:
			if !p.detail(name, &c.Details, may) {
				p.unknown(name)
			}
		}
	})
	p.needSKU(known, c.Line.SKU)
	return c
}

func (p *parser) needSKU(known bool, sku string) {
	switch {
	case !known:
		p.within("sku", func() { p.invalid("a SKU is needed") })
	case sku == "":
		p.within("sku", func() { p.invalid("the SKU must not be blank") })
	}
}

// newCart reads the body of a creation.
func (p *parser) newCart(may pricing) (currency string, steps []cart.Step) {
	known := false
	p.object(func(name string) {
		switch name {
		case "currency":
			currency, known = p.string(), true
		case "line_items":
			p.array(func(int) { steps = append(steps, cart.Step{Command: p.lineItem(may)}) })
		default:
			p.unknown(name)
		}
	})
	if !known {
		p.within("currency", func() { p.invalid("a currency is needed") })
	}
	return currency, steps
}

// cartPatch reads the body of a change of the whole cart.
func (p *parser) cartPatch() (c cart.Update) {
	p.object(func(name string) {
		var text *string
		switch name {
		case "note":
			if !p.null() {
				s := p.lines()
				text = &s
			}
			c.Note = &text
		case "email":
			if !p.null() {
				s := p.string()
				text = &s
			}
			c.Email = &text
		case "metadata":
			c.Metadata = p.mergePatch()
		default:
			p.unknown(name)
		}
	})
	return c
}

// linePatch reads the body of a change of a line that is in the cart.
func (p *parser) linePatch(line cart.LineRef) []cart.Step {
	maxDelta := cart.DefaultLimits.Quantity
	var quantity, delta *int64
	described := false
	describe := cart.Describe{Line: line}
	p.object(func(name string) {
		switch name {
		case "quantity":
			n := p.integer()
			quantity = &n
		case "quantity_delta":
			n := p.integer()
			if n < -maxDelta || n > maxDelta {
				p.invalid("a change of %d is not between %d and %d", n, -maxDelta, maxDelta)
			}
			delta = &n
		case "metadata":
			describe.Metadata, described = p.mergePatch(), true
		default:
			p.unknown(name)
		}
	})
	// The description comes first: a line that its quantity removes has none.
	steps := []cart.Step{{Command: describe}}
	switch {
	case quantity != nil && delta != nil:
		p.invalid("quantity and quantity_delta exclude each other")
	case quantity == nil && delta == nil && !described:
		p.invalid("there is nothing to change: quantity, quantity_delta or metadata is needed")
	case quantity != nil:
		steps = append(steps, cart.Step{Command: cart.Set{Line: line, Quantity: *quantity}})
	case delta != nil && *delta > 0:
		steps = append(steps, cart.Step{Command: cart.Add{Line: line, Quantity: *delta}})
	case delta != nil && *delta < 0:
		steps = append(steps, cart.Step{Command: cart.Decrement{Line: line, Quantity: -*delta}})
	}
	if describe.Metadata.Empty() && len(steps) > 1 {
		steps = steps[1:]
	}
	return steps
}

var operationTypes = []string{"add", "set", "decrement", "remove", "clear"}

// operation is one of a list of operations: the step, and what its result repeats.
type operation struct {
	step cart.Step
	kind string
	id   string      // or empty
	line cart.LineID // as in the request, or zero
}

// operations reads the body of a list of operations.
func (p *parser) operations(may pricing) (list []operation) {
	known := false
	p.object(func(name string) {
		if name != "operations" {
			p.unknown(name)
			return
		}
		known = true
		p.array(func(i int) {
			if i == cart.MaxOperations {
				p.invalid("at most %d operations are taken at once", cart.MaxOperations)
				return
			}
			list = append(list, p.operation(may))
		})
	})
	if len(list) == 0 {
		p.within("operations", func() { p.invalid("at least one operation is needed") })
	}
	if !known {
		return nil
	}
	return list
}

func (p *parser) operation(may pricing) (o operation) {
	var line cart.LineRef
	var details cart.Details
	var quantity *int64
	var byID, bySKU, detailed bool
	p.object(func(name string) {
		switch name {
		case "type":
			if o.kind = p.string(); p.err == nil && !slices.Contains(operationTypes, o.kind) {
				p.invalid("the type is one of %s", strings.Join(operationTypes, ", "))
			}
		case "operation_id":
			if o.id = strings.ToLower(p.string()); p.err == nil && !isUUID(o.id) {
				p.invalid("this is not a UUID")
			}
		case "line_item_id":
			var err error
			if line.ID, err = cart.ParseLineID(p.string()); err != nil {
				p.invalid("this is not the id of a line item")
			}
			byID = true
		case "sku":
			if line.SKU, bySKU = p.string(), true; line.SKU == "" {
				p.invalid("the SKU must not be blank")
			}
		case "options":
			line.Options = p.strings()
		case "quantity":
			n := p.integer()
			quantity = &n
		default:
			if detailed = p.detail(name, &details, may); !detailed {
				p.unknown(name)
			}
		}
	})
	if p.err != nil {
		return o
	}
	if o.kind == "" {
		p.within("type", func() { p.invalid("a type is needed") })
		return o
	}
	switch named := byID || bySKU; {
	case o.kind == "clear" && (named || line.Options != nil):
		p.invalid("clear is about all lines: it takes no line_item_id, sku and options")
	case o.kind != "clear" && byID == bySKU:
		p.invalid("either line_item_id or sku is needed")
	case byID && line.Options != nil:
		p.invalid("options go with sku, not with line_item_id")
	case quantity != nil && (o.kind == "remove" || o.kind == "clear"):
		p.within("quantity", func() { p.invalid("%s takes no quantity", o.kind) })
	case quantity == nil && o.kind == "set":
		p.within("quantity", func() { p.invalid("set needs a quantity") })
	case detailed && o.kind != "add" && o.kind != "set":
		p.invalid("the fields unit_price, title, image_url and metadata go with add and set")
	}
	n := int64(1)
	if quantity != nil {
		n = *quantity
	}
	o.step.Key, o.line = o.id, line.ID
	switch o.kind {
	case "add":
		o.step.Command = cart.Add{Line: line, Quantity: n, Details: details}
	case "set":
		o.step.Command = cart.Set{Line: line, Quantity: n, Details: details}
	case "decrement":
		o.step.Command = cart.Decrement{Line: line, Quantity: n}
	case "remove":
		o.step.Command = cart.Remove{Line: line}
	case "clear":
		o.step.Command = cart.Clear{}
	}
	return o
}

// isUUID reports whether s is a UUID in lower case. [RFC 9562]
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}
