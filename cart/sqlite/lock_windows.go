package sqlite

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

const errorSharingViolation = syscall.Errno(32)

// lockFile opens a file that it creates so that no one else can open it for writing, and writes
// the process id into it. The system closes it when the process ends, however it ends.
func lockFile(name string) (*os.File, error) {
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, syscall.FILE_SHARE_READ,
		nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		pid, _ := os.ReadFile(name)
		return nil, fmt.Errorf("%w by process %s", ErrInUse, strings.TrimSpace(string(pid)))
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(h), name)
	return f, writePID(f)
}

// syncDirectory does nothing: there is no such call.
func syncDirectory(string) error { return nil }
