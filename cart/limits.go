package cart

import "cartd/crdt"

// Limits bound one cart. They bind commands; a merge that overshoots them drops nothing.
type Limits struct {
	Lines    int   // lines in a cart; four times as many may ever have been in it
	Quantity int64 // units on a line
}

// DefaultLimits are the limits where none are configured.
var DefaultLimits = Limits{Lines: 1000, Quantity: 9999}

// Bounds on the parts of a cart. Lengths are in bytes of UTF-8.
const (
	MaxSKU           = 128
	MaxTitle         = 512
	MaxImageURL      = 2048
	MaxNote          = 2000
	MaxEmail         = 254
	MaxCode          = 64
	MaxCodes         = 50
	MaxOptions       = 16
	MaxOptionName    = 64
	MaxOptionValue   = 128
	MaxMetadata      = 20
	MaxMetadataName  = 64
	MaxMetadataValue = 512
	MaxPrice         = 100_000_000_000 // minor units
	MaxOperations    = 100             // commands in one request
	MaxOperationKey  = 255

	// linesEver is how many lines may ever have been in a cart, as a multiple of Limits.Lines:
	// a removed line keeps its registers.
	linesEver = 4
	// maxEntries is how many increments and assignments may be live on a line. Each of them can
	// still be removed on its own by who saw no more than it, so they cannot be summed up; setting
	// the line's quantity replaces them.
	maxEntries = 10_000
	// maxCartEntries is the same for all lines of a cart: clearing it cancels each, and what one delta
	// cancels has to be decoded again when the journal is replayed (crdt.MaxDots), also where several
	// replicas brought the cart to its limit at once.
	maxCartEntries = 100_000
	// maxRecords is how many operation ids a cart remembers: each command looks at them.
	maxRecords = 5000
	// The texts of a cart have textPerLine bytes for each line that it may have, and minText at least.
	textPerLine = 1 << 10
	minText     = 256 << 10
	// maxReplicas is how many residences may have written a cart: half of what can be decoded, so that a
	// merge of several replicas that are at their limit can be.
	maxReplicas = crdt.MaxReplicas / 2
	// metadataEver is how many keys of metadata may ever have been written, deleted ones included.
	metadataEver = 4 * MaxMetadata
)
