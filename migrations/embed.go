// Package migrations holds the schemas of the stores, one folder per database, as goose migrations.
package migrations

import "embed"

// SQLite is the schema of package cart/sqlite, in the folder sqlite.
//
//go:embed sqlite/*.sql
var SQLite embed.FS

// Postgres is the schema of package cart/postgres, in the folder postgres.
//
//go:embed postgres/*.sql
var Postgres embed.FS
