package main

import (
	"io/fs"
	"os"
)

// giveTo does nothing: a file gets its permissions from its directory.
func giveTo(*os.File, fs.FileInfo) error { return nil }

// syncDir does nothing: directories cannot be synced.
func syncDir(string) error { return nil }
