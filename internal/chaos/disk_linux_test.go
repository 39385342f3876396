package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"cartd/internal/pgtest"
)

// mount makes a folder that is a disk of its own.
func mount(t *testing.T, dir string, size int64) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", size)); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
}

// fill fills the disk of the database, and returns what frees it. The database begins a new file of its log
// before, so that the next commit finds out.
func (r *region) fill() (free func()) {
	r.t.Helper()
	if err := pgtest.Exec(r.server.URL, "SELECT pg_switch_wal()"); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(r.disk(), "ballast"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 4096); err == nil; {
		_, err = f.Write(piece)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		r.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// disk is the folder where the disk of the database is, if that has one of its own.
func (r *region) disk() string { return filepath.Join(r.cluster.dir, "disk") }

func (r *region) straceLog() string { return filepath.Join(r.cluster.dir, "strace.log") }

// inject tampers with every fsync of the database, as --inject of strace has it, until stop is called.
func (r *region) inject(what string) (stop func()) {
	r.t.Helper()
	const calls = "fsync,fdatasync"
	pids := r.server.Pause(r.t) // no process comes that is not seen here
	args := []string{"-f", "-q", "-o", r.straceLog(), "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what}
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	strace := exec.Command("strace", args...)
	strace.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	strace.Stderr = &said
	if err := strace.Start(); err != nil {
		r.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = strace.Wait() // it ends by a signal
	}()
	stop = func() {
		_ = strace.Process.Signal(syscall.SIGTERM) // it lets go of the processes; an error means that it has ended
		<-done
	}
	r.t.Cleanup(stop)
	r.cluster.await("strace is attached", func() bool {
		select {
		case <-done:
			r.t.Fatalf("strace: %s", said.String())
		default:
		}
		return !hasUntraced(pids)
	})
	r.server.Resume(r.t)
	return stop
}

// hasUntraced reports whether nobody traces one of some processes.
func hasUntraced(pids []int) bool {
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && bytes.Contains(status, []byte("\nTracerPid:\t0\n")) {
			return true
		}
	}
	return false
}
