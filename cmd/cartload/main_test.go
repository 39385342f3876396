package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUsage(t *testing.T) {
	file := writeFile(t, oneInvoice)
	for _, tt := range []struct {
		name string
		args []string
		env  map[string]string
		want string
	}{
		{"no such command", []string{"reply"}, nil, "unknown command"},
		{"no such flag", []string{"replay", "--taget", "http://a", file}, nil, "unknown flag: --taget"},
		{"no files", []string{"replay"}, nil, "at least one file"},
		{"arguments to version", []string{"version", "x"}, nil, "unknown command"},
		{"no scheme", []string{"replay", "--target", "localhost:8080", file}, nil, "not a base URL"},
		{"no host", []string{"replay", "--target", "http://", file}, nil, "not a base URL"},
		{"other scheme", []string{"replay", "--target", "ftp://a", file}, nil, "not a base URL"},
		{"query", []string{"replay", "--target", "http://a/?b", file}, nil, "not a base URL"},
		{"a region without a URL", []string{"replay", "--target", "eu=", file}, nil, "not a base URL"},
		{"regions of some", []string{"replay", "--target", "eu=http://a,http://b", file}, nil, "none at others"},
		{"converge", []string{"replay", "--converge", "-1s", file}, nil, "--converge -1s"},
		{"empty target", []string{"replay", "--target", "", file}, nil, "--target"},
		{"format", []string{"replay", "--format", "xml", file}, nil, "xml"},
		{"concurrency", []string{"replay", "--concurrency", "0", file}, nil, "--concurrency 0"},
		{"retry-for", []string{"replay", "--retry-for", "-1s", file}, nil, "--retry-for -1s"},
		{"retry-for without unit", []string{"replay", "--retry-for", "10", file}, nil, "invalid argument"},
		{"timeout", []string{"replay", "--timeout", "0", file}, nil, "--timeout 0s"},
		{"env", []string{"replay", file}, map[string]string{"CARTLOAD_CONCURRENCY": "many"}, "CARTLOAD_CONCURRENCY"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			var stderr bytes.Buffer
			code := run(t.Context(), tt.args, io.Discard, &stderr)
			if code != exitUsage {
				t.Errorf("exit code %d, want %d", code, exitUsage)
			}
			if got := stderr.String(); !strings.Contains(got, tt.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("got %q, want one line with %q", got, tt.want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	var stdout bytes.Buffer
	if code := run(t.Context(), []string{"version"}, &stdout, io.Discard); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if got := stdout.String(); !strings.HasPrefix(got, "cartload ") {
		t.Errorf("got %q", got)
	}
}

func TestHelpTellsEveryFlag(t *testing.T) {
	var stdout bytes.Buffer
	if code := run(t.Context(), []string{"replay", "--help"}, &stdout, io.Discard); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, flag := range []string{"--target", "--format", "--concurrency", "--retry-for", "--timeout", "--context", "--converge", "--json"} {
		if !strings.Contains(stdout.String(), flag) {
			t.Errorf("no %s in the help", flag)
		}
	}
}

func TestMissingAndBadFilesAreTold(t *testing.T) {
	fake, url := startFake(t)
	good, bad := writeFile(t, oneInvoice), writeFile(t, header+"1,A,TEE,x,,1.00,,\n")
	for _, tt := range []struct {
		name string
		path string
		want string
	}{
		{"missing", good + ".gone", "no such file"},
		{"bad row", bad, `:2: quantity "x" is not a whole number`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := run(t.Context(), []string{"replay", "--target", url, good, tt.path}, io.Discard, &stderr)
			if code != exitFailed || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d and %q, want %d and %q", code, stderr.String(), exitFailed, tt.want)
			}
		})
	}
	if n := fake.requests.Load(); n != 0 {
		t.Errorf("%d requests sent of files with an error", n)
	}
}

func TestFlagsFromEnvironment(t *testing.T) {
	_, url := startFake(t)
	t.Setenv("CARTLOAD_TARGET", url)
	t.Setenv("CARTLOAD_CONCURRENCY", "0") // the command line goes before
	t.Setenv("CARTLOAD_RETRY_FOR", "1s")
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), []string{"replay", "--concurrency", "3", writeFile(t, oneInvoice)}, &stdout, &stderr)
	if code != exitOK || !strings.Contains(stdout.String(), "3 carts at a time") {
		t.Errorf("exit code %d: %s%s", code, &stdout, &stderr)
	}
}
