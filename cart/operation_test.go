package cart

import "testing"

func TestOperationIDs(t *testing.T) {
	cart, other := ID{1}, ID{2}
	seen := map[OperationID]string{}
	for name, id := range map[string]OperationID{
		"one":                 operationID(cart, "k", 0, 1),
		"of another cart":     operationID(other, "k", 0, 1),
		"of another key":      operationID(cart, "l", 0, 1),
		"of the next command": operationID(cart, "k", 1, 1),
		"of another body":     operationID(cart, "k", 0, 2),
	} {
		if before, ok := seen[id]; ok {
			t.Errorf("%q and %q have one id", before, name)
		}
		seen[id] = name
	}
	// One key is one prefix, whatever the body: that tells a key used again from one that is new.
	a, b := operationID(cart, "k", 0, 1), operationID(cart, "k", 0, 2)
	if [operationPrefix]byte(a[:]) != [operationPrefix]byte(b[:]) {
		t.Error("the ids of one key have different prefixes")
	}
	// The keys of steps and requests are apart.
	_, steps := (&Request{Cart: cart, Steps: []Step{{Command: Clear{}, Key: "k"}}}).operationIDs()
	_, request := (&Request{Cart: cart, Key: "k", Steps: []Step{{Command: Clear{}}}}).operationIDs()
	if steps[0] == request[0] || [operationPrefix]byte(steps[0][:]) == [operationPrefix]byte(request[0][:]) {
		t.Error("a step's key is a request's")
	}
	if mark, ids := (&Request{Cart: cart, Steps: []Step{{Command: Clear{}}}}).operationIDs(); ids[0] != (OperationID{}) || mark != ids[0] {
		t.Error("an id without a key")
	}
}
