package cart

import (
	"errors"
	"testing"
	"time"
)

// A store that failed is not asked again, whatever an earlier commit still says.
func TestACommitterThatFailedStaysSo(t *testing.T) {
	c := newCommitter(newFakeStore(), runtimeScheduler{}, time.Now)
	first, second := errors.New("first"), errors.New("second")
	c.setNoRoom(ErrNoRoom)
	c.fail(first)
	c.fail(second)
	c.setNoRoom(nil)
	c.setNoRoom(ErrNoRoom)
	select {
	case <-c.stall():
	default:
		t.Error("a write would wait for it")
	}
	if err := c.unavailable(); !errors.Is(err, first) {
		t.Errorf("unavailable: %v", err)
	}
}
