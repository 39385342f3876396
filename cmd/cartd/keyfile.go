package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cartd/gossip"
)

// maxKeyFile is the bytes of a file of keys at most: there is room for comments.
const maxKeyFile = 16 << 10

// readKeys reads the keys of a file. No error shows any of them.
func readKeys(name string) (gossip.Keyring, error) {
	text, err := readText(name)
	if err != nil {
		return gossip.Keyring{}, err
	}
	keys, err := gossip.ParseKeyring(text)
	if err != nil {
		return gossip.Keyring{}, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

// readText reads a file that may have keys in it.
func readText(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := readAtMost(f)
	if errors.Is(err, errLong) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return text, err
}

var errLong = fmt.Errorf("not a file of keys: it has more than %d bytes", maxKeyFile)

func readAtMost(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	if err == nil && len(b) > maxKeyFile {
		err = errLong
	}
	return string(b), err
}

// othersMayRead reports whether users who are neither the owner of a file nor in its group may read it.
func othersMayRead(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0
}

// keyFile is a file of keys that is edited. Its comments stay.
type keyFile struct {
	path  string // of the file itself, where the name was that of a symbolic link
	info  fs.FileInfo
	lines []string // with their ends
	keys  gossip.Keyring
}

func openKeyFile(name string) (*keyFile, error) {
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	f := &keyFile{path: path, info: info}
	if err := f.set(slices.Collect(strings.Lines(text))); err != nil {
		return nil, err
	}
	return f, nil
}

// set makes lines those of the file, if they are good.
func (f *keyFile) set(lines []string) error {
	keys, err := gossip.ParseKeyring(strings.Join(lines, ""))
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.lines, f.keys = lines, keys
	return nil
}

// inUse returns the fingerprint of the first key.
func (f *keyFile) inUse() gossip.Fingerprint { return f.keys.Fingerprints()[0] }

// line returns which of the lines is the key of a fingerprint.
func (f *keyFile) line(fingerprint gossip.Fingerprint) (int, error) {
	key := slices.Index(f.keys.Fingerprints(), fingerprint)
	if key < 0 {
		return 0, fmt.Errorf("%s has no key %v", f.path, fingerprint)
	}
	for i, line := range f.lines {
		if gossip.IsKeyLine(line) {
			if key == 0 {
				return i, nil
			}
			key--
		}
	}
	panic("a key that is in no line")
}

// add appends a key.
func (f *keyFile) add(key gossip.Key) error {
	lines := slices.Clone(f.lines)
	if last := len(lines) - 1; !strings.HasSuffix(lines[last], "\n") {
		lines[last] += "\n"
	}
	return f.set(append(lines, key.Text()+"\n"))
}

// use moves a key before the others.
func (f *keyFile) use(fingerprint gossip.Fingerprint) error {
	from, err := f.line(fingerprint)
	if err != nil {
		return err
	}
	lines := slices.Clone(f.lines)
	moved := lines[from]
	if !strings.HasSuffix(moved, "\n") {
		moved += "\n"
	}
	to := slices.IndexFunc(lines, gossip.IsKeyLine)
	return f.set(slices.Insert(slices.Delete(lines, from, from+1), to, moved))
}

// remove removes a key that is not in use.
func (f *keyFile) remove(fingerprint gossip.Fingerprint) error {
	i, err := f.line(fingerprint)
	switch {
	case err != nil:
		return err
	case fingerprint != f.inUse():
		return f.set(slices.Delete(slices.Clone(f.lines), i, i+1))
	case len(f.keys.Fingerprints()) == 1:
		return fmt.Errorf("%v is the only key of %s", fingerprint, f.path)
	}
	return fmt.Errorf("%v is in use: use another key of %s first", fingerprint, f.path)
}

// write replaces the file, at once and for good, by one of the same owner and permissions.
func (f *keyFile) write() (err error) {
	dir := filepath.Dir(f.path)
	fresh, err := os.CreateTemp(dir, ".cartd-keys-*") // which nobody else may read
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(fresh.Name()))
		}
	}()
	_, err = fresh.WriteString(strings.Join(f.lines, ""))
	err = errors.Join(err, giveTo(fresh, f.info), fresh.Chmod(f.info.Mode().Perm()), fresh.Sync(), fresh.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(fresh.Name(), f.path); err != nil {
		return err
	}
	return syncDir(dir)
}
