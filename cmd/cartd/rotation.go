package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cartd/gossip"
)

// keyHolder is a node and the fingerprints of its keys, of the one in use first.
type keyHolder struct {
	node  string // its gossip address
	keys  []string
	links []string // keys that its links were proven with, where the node was asked
}

// uses reports whether the node uses a key.
func (h keyHolder) uses(key string) bool { return len(h.keys) > 0 && h.keys[0] == key }

// keyHolders asks nodes who has which keys. A node says it of itself and of the members that it knows; what a
// node says of itself counts.
func keyHolders(ctx context.Context, c adminConfig) ([]keyHolder, error) {
	var itself, told []memberStatus
	links := make(map[string][]string) // by name
	for _, r := range c.ask(ctx) {
		if r.err != nil {
			return nil, r.err
		}
		if r.status.Node == nil {
			return nil, fmt.Errorf("the node at %s has no cluster key, or has just been started", r.address)
		}
		if f := r.status.KeyFile; f != nil && f.LastError != "" {
			return nil, fmt.Errorf("the file of cluster keys at %s is no good: %s", r.address, f.LastError)
		}
		itself = append(itself, *r.status.Node)
		for _, l := range r.status.Links {
			if l.Up {
				links[r.status.Node.Name] = append(links[r.status.Node.Name], l.Key)
			}
		}
		told = append(told, r.status.Members...)
	}
	var holders []keyHolder
	known := make(map[string]bool)
	for _, m := range append(itself, told...) {
		if !known[m.Name] {
			known[m.Name] = true
			holders = append(holders, keyHolder{m.GossipAddress, m.Keys, links[m.Name]})
		}
	}
	slices.SortFunc(holders, func(a, b keyHolder) int { return strings.Compare(a.node, b.node) })
	return holders, nil
}

// nodesThat names the nodes that something is true of, or returns nothing.
func nodesThat(holders []keyHolder, is func(keyHolder) bool) string {
	var names []string
	for _, h := range holders {
		if is(h) {
			names = append(names, h.node)
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return "node " + names[0]
	}
	return "nodes " + strings.Join(names, ", ")
}

// silent names the nodes that do not tell their keys.
func silent(holders []keyHolder) string {
	return nodesThat(holders, func(h keyHolder) bool { return len(h.keys) == 0 })
}

// lacking names the nodes that lack a key.
func lacking(holders []keyHolder, key string) string {
	return nodesThat(holders, func(h keyHolder) bool { return !slices.Contains(h.keys, key) })
}

// using names the nodes that use a key.
func using(holders []keyHolder, key string) string {
	return nodesThat(holders, func(h keyHolder) bool { return h.uses(key) })
}

// linkedBy names the nodes that have links which were proven with a key.
func linkedBy(holders []keyHolder, key string) string {
	return nodesThat(holders, func(h keyHolder) bool { return slices.Contains(h.links, key) })
}

// canUse returns why a key is not to be used yet, or nil.
func canUse(holders []keyHolder, key gossip.Fingerprint) error {
	if who := lacking(holders, key.String()); who != "" {
		return fmt.Errorf("%v cannot be used yet: missing at %s", key, who)
	}
	return nil
}

// canRemove returns why a key is not to be removed yet, or nil.
func canRemove(holders []keyHolder, key gossip.Fingerprint) error {
	if who := silent(holders); who != "" {
		return fmt.Errorf("%v cannot be removed yet: unknown keys at %s, of a version before there were several", key, who)
	}
	if who := using(holders, key.String()); who != "" {
		return fmt.Errorf("%v cannot be removed yet: in use at %s", key, who)
	}
	if who := linkedBy(holders, key.String()); who != "" {
		return fmt.Errorf("%v cannot be removed yet: links of %s were made with it, and are about to be replaced", key, who)
	}
	return nil
}

// errWait says that the next step of a rotation has to wait.
var errWait = errors.New("wait")

// nextStep says in a sentence what can be done next, or returns why nothing can yet. Whether a key that all have
// and none uses is the next one or the former one, it cannot know.
func nextStep(holders []keyHolder) (says string, err error) {
	if who := silent(holders); who != "" {
		return "", fmt.Errorf("%w: unknown keys at %s, of a version before there were several", errWait, who)
	}
	first := holders[0].keys[0]
	var others []string
	for _, h := range holders {
		if who := lacking(holders, h.keys[0]); who != "" {
			return "", fmt.Errorf("%w: %s uses %s, which is missing at %s: add it there", errWait, using(holders, h.keys[0]), h.keys[0], who)
		}
		if !h.uses(first) {
			return "", fmt.Errorf("%w: every node has %s and %s, %s in use at %s and %s at %s", errWait,
				first, h.keys[0], first, using(holders, first), h.keys[0], using(holders, h.keys[0]))
		}
		others = append(others, h.keys[1:]...)
	}
	slices.Sort(others)
	others = slices.Compact(others)
	for _, key := range others {
		if who := lacking(holders, key); who != "" {
			return "", fmt.Errorf("%w: all use %s, and %s is missing at %s; it can be removed, but not used", errWait, first, key, who)
		}
	}
	if len(others) == 0 {
		return fmt.Sprintf("all use %s, and there is no other key", first), nil
	}
	list := strings.Join(others, " and ")
	return fmt.Sprintf("every node has %s: it can be used now; all use %s: %s can be removed", list, first, list), nil
}
