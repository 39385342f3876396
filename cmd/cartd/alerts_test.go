package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const operations = "docs/operations.md"

// alert is a rule of deploy/prometheus/alerts.yml.
type alert struct {
	Alert       string
	Expr        string
	Labels      struct{ Severity string }
	Annotations struct {
		Summary     string
		Description string
		Runbook     string `yaml:"runbook_url"`
	}
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readAlerts(t *testing.T) (alerts []alert) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alert } }
	if err := yaml.Unmarshal([]byte(readFile(t, "deploy", "prometheus", "alerts.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		alerts = append(alerts, g.Rules...)
	}
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	return alerts
}

var metricName = regexp.MustCompile(`\bcartd_\w+`)

// TestAlerts: each alert is on metrics that there are, says how bad it is, and has an entry in the runbook.
func TestAlerts(t *testing.T) {
	exposed := make(map[string]bool)
	for _, d := range described {
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]
		exposed[name] = true
		if d == mStoreLatency {
			exposed[name+"_bucket"], exposed[name+"_sum"], exposed[name+"_count"] = true, true, true
		}
	}
	entries := headings(readFile(t, operations))
	for _, a := range readAlerts(t) {
		names := metricName.FindAllString(a.Expr, -1)
		if len(names) == 0 {
			t.Errorf("%s is on no metric", a.Alert)
		}
		for _, name := range names {
			if !exposed[name] {
				t.Errorf("%s: /metrics has no %s", a.Alert, name)
			}
		}
		if s := a.Labels.Severity; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", a.Alert, s)
		}
		if a.Annotations.Summary == "" || a.Annotations.Description == "" {
			t.Errorf("%s has no summary or no description", a.Alert)
		}
		file, anchor, _ := strings.Cut(a.Annotations.Runbook, "#")
		if file != operations || entries[anchor] == "" {
			t.Errorf("%s: the runbook has no entry %q", a.Alert, a.Annotations.Runbook)
		}
	}
}

// TestRunbook: each entry is in the table above the entries, which names the alerts that lead to it.
func TestRunbook(t *testing.T) {
	text := readFile(t, operations)
	table, runbook, found := strings.Cut(text, "\n### ")
	if !found {
		t.Fatal("no runbook")
	}
	for anchor, heading := range headings("### " + runbook) {
		row := regexp.MustCompile(`(?m)^\| \[[^]]+\]\(#` + anchor + `\) \|.*$`).FindString(table)
		if row == "" {
			t.Errorf("%q is not in the table", heading)
		}
		for _, a := range readAlerts(t) {
			if leads := strings.HasSuffix(a.Annotations.Runbook, "#"+anchor); leads != strings.Contains(row, "`"+a.Alert+"`") {
				t.Errorf("%s leads to %q: %v, and the table says otherwise", a.Alert, heading, leads)
			}
		}
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		if headings(text)[link[1]] == "" {
			t.Errorf("a link to #%s, which there is not", link[1])
		}
	}
}

// headings returns the headings of a text by their anchors, as GitHub makes them.
func headings(text string) map[string]string {
	anchors := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		lower := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(lower, " ", "-")] = m[1]
	}
	return anchors
}
