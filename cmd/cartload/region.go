package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// region is the targets that serve the carts of one region.
type region struct {
	name    string // empty: it is the only one
	targets []string
}

// parseTargets reads targets, URL or REGION=URL, as base URLs without a slash at the end, by region in the order in
// which the regions are named. It refuses regions that only some of the targets have.
func parseTargets(texts []string) ([]region, error) {
	var regions []region
	for _, text := range texts {
		name, base, named := strings.Cut(text, "=")
		if !named || strings.Contains(name, ":") { // it belongs to the URL
			name, base = "", text
		}
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("--target %q is not a base URL like http://127.0.0.1:8080, or one with its region like eu=http://127.0.0.1:8080", text)
		}
		target := strings.TrimRight(u.String(), "/")
		i := slices.IndexFunc(regions, func(r region) bool { return r.name == name })
		if i < 0 {
			i = len(regions)
			regions = append(regions, region{name: name})
		}
		regions[i].targets = append(regions[i].targets, target)
	}
	if len(regions) == 0 {
		return nil, errors.New("--target is empty")
	}
	if len(regions) > 1 && slices.ContainsFunc(regions, func(r region) bool { return r.name == "" }) {
		return nil, errors.New("--target has a region at some URLs and none at others")
	}
	return regions, nil
}

// allTargets returns the targets of all regions.
func allTargets(regions []region) (targets []string) {
	for _, r := range regions {
		targets = append(targets, r.targets...)
	}
	return targets
}
