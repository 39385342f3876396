// Package pgtest gives tests a PostgreSQL.
//
// New gives a test an empty schema of its own, on the server that DATABASE_URL names or, without
// it, on a throwaway server that the first test of the binary starts: in a temporary directory, on
// a Unix socket there, from the binaries on the PATH or in /usr/lib/postgresql. Start gives a test a
// throwaway server of its own, to be killed and started again, and StartWith one in a network namespace or with
// files that Init made. Without binaries tests are skipped.
//
// A test binary that uses New calls Close when its tests are done.
package pgtest
