package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"cartd/gossip"
)

// keyFileEvery is how often a node looks whether its file of keys has changed. Not every change of a file can
// be noticed otherwise: Kubernetes replaces a link to a directory above it.
const keyFileEvery = 2 * time.Second

// keyWatch keeps the keys of a node those of its file.
type keyWatch struct {
	file string
	set  func(gossip.Keyring) error
	log  *slog.Logger

	keys gossip.Keyring // that the node has; reload alone looks at it

	mu     sync.Mutex
	status keyFileStatus
}

func newKeyWatch(file string, keys gossip.Keyring, set func(gossip.Keyring) error, log *slog.Logger) *keyWatch {
	return &keyWatch{file: file, set: set, log: log, keys: keys}
}

// run reads the file every 2 s, and at SIGHUP, until ctx ends. What cannot be read twice, a pipe, it leaves alone.
func (w *keyWatch) run(ctx context.Context) {
	info, err := os.Stat(w.file)
	if err == nil && !info.Mode().IsRegular() {
		w.log.Info("the file of cluster keys is not a regular one: it was read at the start and will not be read again", "file", w.file)
		return
	}
	if err == nil && othersMayRead(info) {
		w.log.Warn("every user of this machine can read the cluster keys", "file", w.file, "mode", info.Mode().Perm().String())
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ticker := time.NewTicker(keyFileEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-hangup:
		case <-ctx.Done():
			return
		}
		w.reload()
	}
}

// reload gives the node the keys of the file, if they are others. A file that is not good changes nothing.
func (w *keyWatch) reload() {
	keys, err := readKeys(w.file)
	changed := err == nil && !keys.Equal(w.keys)
	if changed {
		err = w.set(keys)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if changed && err == nil {
		w.keys = keys
		w.status.Changes++
		w.log.Info("the cluster keys have changed", "keys", fingerprints(keys.Fingerprints()))
	}
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != w.status.LastError {
		w.status.Failures++
		w.log.Error("the file of cluster keys is no good: the keys stay as they were", "error", said)
	}
	w.status.LastError = said
}

// read returns what there is to see of the file.
func (w *keyWatch) read() *keyFileStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := w.status
	return &status
}

// keyFileStatus tells how the file of keys was read since the start.
type keyFileStatus struct {
	Changes   int64  `json:"changes"`
	Failures  int64  `json:"failures"`             // changes that left it no good
	LastError string `json:"last_error,omitempty"` // why it is no good at present
}

// fingerprints writes those of keys as status and logs do.
func fingerprints(prints []gossip.Fingerprint) []string {
	texts := make([]string, len(prints))
	for i, p := range prints {
		texts[i] = p.String()
	}
	return texts
}
