package cart

// Reason tells what kind of refusal an Error is. The reasons are the domain's; what they are to a
// client is up to the adapter that answers it.
type Reason string

// The reasons for which a request is refused.
const (
	NotFound            Reason = "cart-not-found"
	LineNotFound        Reason = "line-item-not-found"
	Expired             Reason = "cart-expired"
	Invalid             Reason = "validation-failed"
	WrongCurrency       Reason = "currency-mismatch"
	TooManyLines        Reason = "line-limit"
	QuantityExceeded    Reason = "quantity-limit"
	TooLarge            Reason = "size-limit"
	TooManyOperations   Reason = "rate-limited"
	PreconditionFailed  Reason = "precondition-failed"
	OperationReused     Reason = "idempotency-key-reused"
	MalformedContext    Reason = "malformed-context"
	NotDurable          Reason = "not-durable"           // the write is not safe; it may become so
	ContextUnavailable  Reason = "context-unavailable"   // the node has not seen what the client has
	Unavailable         Reason = "cart-unavailable"      // the cart cannot be loaded
	ServiceOverCapacity Reason = "service-over-capacity" // more unsaved carts than memory allows
)

// Error is a refusal of a request. Nothing has changed, except after NotDurable.
type Error struct {
	Reason  Reason
	Detail  string // one sentence for a person
	Pointer string // JSON pointer to the part of the request that is at fault, or empty
	Err     error  // the cause, or nil
}

func (e *Error) Error() string {
	s := "cart: " + string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an Error of the same reason, so that errors.Is(err, ErrNotFound)
// holds whatever the detail.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// ErrNotFound is the answer for a cart that does not exist, is erased, was purged, or is not the
// caller's: the same for all of them.
var ErrNotFound = &Error{Reason: NotFound, Detail: "there is no such cart"}
