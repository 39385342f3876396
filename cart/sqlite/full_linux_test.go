package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cartd/cart"
)

// TestFullDisk fills a file system of 2 MB, at first with a foreign file and then with commits.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("a small file system cannot be mounted here: ", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s := open(t, dir)
	defer s.Close()
	b := newBasket()
	commit(t, s, b.add(t, "apples"))

	foreign := filepath.Join(dir, "foreign")
	for range 3 {
		fillDisk(t, foreign)
		stored := b.state
		var err error
		for i := 0; err == nil && i < 1000; i++ { // what the log has allocated is still there
			stored = b.state
			err = s.Commit(background, []cart.Change{b.add(t, fmt.Sprint("line ", i%20))})
		}
		if !errors.Is(err, cart.ErrNoRoom) || s.Err() != nil {
			t.Fatalf("got %v, want %v; %v", err, cart.ErrNoRoom, s.Err())
		}
		b.state = stored
		wantState(t, s, b)
		if err := s.round(); err != nil && !errors.Is(err, cart.ErrNoRoom) {
			t.Fatal(err)
		}
		if _, err := s.checkpoint("PASSIVE"); err != nil && !errors.Is(err, cart.ErrNoRoom) {
			t.Fatal(err)
		}
		if err := os.Remove(foreign); err != nil {
			t.Fatal(err)
		}
		commit(t, s, b.add(t, "pears"))
		wantState(t, s, b)
	}
	after := t.TempDir()
	copyDatabase(t, after, dir)
	wantState(t, open(t, after), b)
	closeStore(t, s)
	s = open(t, dir)
	wantState(t, s, b)
	closeStore(t, s)
}

// A backup for which there is no room fails and leaves nothing behind.
func TestBackupToAFullDisk(t *testing.T) {
	full := t.TempDir()
	if err := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("a small file system cannot be mounted here: ", err)
	}
	defer func() {
		if err := syscall.Unmount(full, 0); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 200 {
		b := newBasket()
		commit(t, s, b.add(t, fmt.Sprint("line ", i, string(bytes.Repeat([]byte{'x'}, 500)))))
	}
	if _, err := Backup(background, dir, filepath.Join(full, "backup")); err == nil {
		t.Error("a backup of 100 kB has found room in 64 kB")
	}
	wantFiles(t, full)
	closeStore(t, s)
}

// fillDisk writes a file until the disk is full.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if n, err := f.Write(bytes.Repeat([]byte{1}, size)); errors.Is(err, syscall.ENOSPC) {
			if n == 0 {
				size /= 2
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
