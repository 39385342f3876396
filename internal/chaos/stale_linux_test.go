package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// workFolder returns the folder for the files of a run, by the id of its process.
func workFolder(pid int) string {
	return filepath.Join(os.TempDir(), namespacePrefix+strconv.Itoa(pid))
}

// removeRun removes all that a run made: processes, network, mounts and files.
func removeRun(pid int) error {
	return errors.Join(removeNetwork(pid), unmount(workFolder(pid)), os.RemoveAll(workFolder(pid)))
}

// removeStale removes what runs left that were killed.
func removeStale() (err error) {
	stale := make(map[int]bool)
	for _, pattern := range []string{"/run/netns/" + namespacePrefix + "*", filepath.Join(os.TempDir(), namespacePrefix+"*")} {
		paths, e := filepath.Glob(pattern)
		err = errors.Join(err, e)
		for _, path := range paths {
			number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), namespacePrefix), "-")
			if pid, e := strconv.Atoi(number); e == nil {
				stale[pid] = pid == os.Getpid() || !isRun(pid)
			}
		}
	}
	for pid, dead := range stale {
		if dead {
			err = errors.Join(err, removeRun(pid))
		}
	}
	return err
}

// isRun reports whether a process runs tests of this package, which could be another one that got the id since.
func isRun(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "chaos.test"
}

// unmount unmounts what is mounted below a folder.
func unmount(folder string) (err error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], folder+"/") {
			err = errors.Join(err, syscall.Unmount(fields[1], syscall.MNT_DETACH))
		}
	}
	return err
}
