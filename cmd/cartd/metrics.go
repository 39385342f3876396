package main

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cartd/cart"
)

// metricsHandler serves what read reads as metrics, beside those of the process.
func metricsHandler(read func() *status, log *slog.Logger) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(
		&metrics{read: read},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)})
}

// metrics collects what a node's status tells, as it is when somebody asks.
type metrics struct{ read func() *status }

// Describe describes every metric that there can be.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range described {
		out <- d
	}
}

// Collect reads the node.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	z := m.read()
	e := emitter{out}
	e.gauge(mReady, truth(z.Ready))
	if c := z.Carts; c != nil {
		e.gauge(mResident, float64(c.Resident))
		e.gauge(mCartsMemory, float64(c.MemoryBytes))
		e.counter(mEvicted, float64(c.Evicted))
		e.gauge(mUnsaved, float64(c.Unsaved))
		e.gauge(mOldestUnsaved, c.OldestUnsaved)
		e.gauge(mUnderReplicated, float64(c.UnderReplicated))
		e.gauge(mFlushPause, c.FlushPause)
		e.counter(mAcknowledged, float64(c.AckedByPeers), "peers")
		e.counter(mAcknowledged, float64(c.AckedByDatabase), "database")
		e.counter(mNotDurable, float64(c.NotDurable))
		e.counter(mHedges, float64(c.Hedges))
		e.counter(mPayloadsRepeated, float64(c.Repeated))
		e.counter(mAskedAbroad, float64(c.AskedAbroad))
	}
	if s := z.Store; s != nil {
		e.gauge(mStoreReachable, truth(s.Reachable))
		e.gauge(mStoreAway, secondsSince(s.AwaySince))
		e.gauge(mStoreStalled, secondsSince(s.StalledSince))
		e.histogram(mStoreLatency, s.latencies)
		e.counter(mStoreOutages, float64(s.Outages))
		e.counter(mStoreCommits, float64(s.Commits))
		e.counter(mStoreChanges, float64(s.Changes))
		e.counter(mStoreConflicts, float64(s.Conflicts))
		e.gauge(mStoreLastBatch, float64(s.LastBatch))
		e.gauge(mStoreLastCommit, s.LastCommit)
		e.gauge(mStoreDamaged, float64(s.Damaged))
		e.gauge(mStoreConnections, float64(s.Connections))
		e.gauge(mStorePending, float64(s.Pending))
		e.gauge(mStoreJournal, float64(s.Journal))
	}
	for reason, n := range z.Refused.Payloads {
		e.counter(mPayloadsRefused, float64(n), reason)
	}
	if z.Node == nil {
		return
	}
	e.gauge(mNode, 1, z.Node.Name, z.Node.Region, z.Node.Zone, z.Node.State)
	e.gauge(mMembers, float64(1+len(z.Members)))
	e.gauge(mLinked, float64(z.Linked))
	e.gauge(mNeeded, float64(z.Needed))
	e.gauge(mClockOffset, z.Clock.Offset)
	if z.WANAddress != "" {
		e.gauge(mWANMembers, float64(1+len(z.WANMembers)))
		e.gauge(mBridge, truth(z.Node.Bridge))
	}
	e.gauge(mAbroad, float64(z.Abroad))
	e.counter(mCrossingsRefused, float64(z.Refused.Crossings))
	for _, r := range z.Regions {
		e.region(&r, z.Node.Bridge)
	}
	if z.KeyFile != nil {
		e.gauge(mKeyFileGood, truth(z.KeyFile.LastError == ""))
	}
	for reason, n := range z.Refused.Network {
		e.counter(mGossipRefused, float64(n), reason)
	}
	e.counter(mRepairs, float64(z.Counters.RepairsEqual), "equal")
	e.counter(mRepairs, float64(z.Counters.RepairsDone), "repaired")
	e.counter(mStatesSent, float64(z.Counters.StatesSent))
	e.counter(mFrames, float64(z.Counters.FramesSent), "sent")
	e.counter(mFrames, float64(z.Counters.FramesReceived), "received")
	e.counter(mFrameBytes, float64(z.Counters.BytesSent), "sent")
	e.counter(mFrameBytes, float64(z.Counters.BytesReceived), "received")
	e.counter(mFramesRefused, float64(z.Counters.Duplicates), "duplicate")
	e.counter(mFramesRefused, float64(z.Counters.Gaps), "gap")
	e.counter(mFramesRefused, float64(z.Counters.Malformed), "malformed")
	e.counter(mItemsRefused, float64(z.Counters.Refused), "here")
	e.counter(mItemsRefused, float64(z.Counters.RefusedByPeer), "by peer")
	e.counter(mOverflows, float64(z.Counters.Overflows))
	e.counter(mDropped, float64(z.Counters.Dropped))
	e.gauge(mSites, float64(z.Slots.Sites))
	e.gauge(mSlots, float64(z.Slots.Own), "own")
	e.gauge(mSlots, float64(z.Slots.Held), "held")
	e.gauge(mSlotsShort, float64(z.Slots.UnderReplicated))
	e.counter(mSlotsMoved, float64(z.Slots.Gained), "gained")
	e.counter(mSlotsMoved, float64(z.Slots.Lost), "lost")
	e.counter(mForwarded, float64(z.Forwards.Forwarded), "owner")
	e.counter(mForwarded, float64(z.Forwards.TakenOver), "here")
	e.counter(mUnheeded, float64(z.Forwards.Unheeded))
	e.counter(mForOthers, float64(z.Forwards.ForOthers))
	for _, l := range z.Links {
		e.gauge(mLinkUp, truth(l.Up), l.Peer)
		e.gauge(mLinkRoundTrip, l.RoundTrip, l.Peer)
		e.gauge(mLinkBacklogItems, float64(l.BacklogItems), l.Peer)
		e.gauge(mLinkBacklogBytes, float64(l.BacklogBytes), l.Peer)
		e.gauge(mLinkLag, l.Lag, l.Peer)
		e.gauge(mLinkUnacked, float64(l.UnackedBytes), l.Peer)
		e.gauge(mLinkNeedsSync, truth(l.NeedsSync), l.Peer)
		e.gauge(mLinkClockOffset, l.ClockOffset, l.Peer)
	}
}

// region emits what there is to see of another region, from a bridge or not.
func (e emitter) region(r *regionStatus, bridge bool) {
	e.gauge(mRegionReachable, truth(r.Reachable), r.Region)
	away := 0.0
	if !r.Reachable {
		away = secondsSince(r.Since)
	}
	e.gauge(mRegionAway, away, r.Region)
	if bridge {
		e.gauge(mRegionLinks, float64(r.linked()), r.Region)
		e.gauge(mRegionRoundTrip, r.RoundTrip, r.Region)
	}
	e.gauge(mRegionLag, r.Lag, r.Region)
	e.histogram(mRegionAge, r.lags, r.Region)
	e.gauge(mRegionNeedSync, float64(r.NeedSync), r.Region)
	e.counter(mRegionRepairs, float64(r.Repairs.RepairsEqual), r.Region, "equal")
	e.counter(mRegionRepairs, float64(r.Repairs.RepairsDone), r.Region, "repaired")
	e.counter(mRegionStates, float64(r.Repairs.StatesSent), r.Region)
	x := r.Crossings
	e.counter(mCrossings, float64(x.Sent), r.Region, "sent")
	e.counter(mCrossings, float64(x.Received), r.Region, "received")
	e.counter(mCrossings, float64(x.Relayed), r.Region, "relayed")
	e.counter(mCrossings, float64(x.Dropped), r.Region, "dropped")
	e.counter(mCrossings, float64(x.Refused), r.Region, "refused")
	e.counter(mCrossingBytes, float64(x.BytesOut), r.Region, "out")
	e.counter(mCrossingBytes, float64(x.BytesIn), r.Region, "in")
}

// emitter emits values. That they have the labels of their descriptions, the test sees to.
type emitter struct{ out chan<- prometheus.Metric }

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d *prometheus.Desc, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (e emitter) histogram(d *prometheus.Desc, l cart.Latencies, labels ...string) {
	buckets := make(map[float64]uint64)
	for _, class := range l.Classes {
		buckets[class.UpTo.Seconds()] = uint64(class.Count)
	}
	e.out <- prometheus.MustNewConstHistogram(d, uint64(l.Count), l.Sum.Seconds(), buckets, labels...)
}

// secondsSince returns 0 for no time at all.
func secondsSince(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t).Seconds())
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// described are the metrics below.
var described []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("cartd_"+name, help, labels, nil)
	described = append(described, d)
	return d
}

var (
	mReady = describe("ready", "Whether the node is ready, as /readyz says.")

	mResident        = describe("carts_resident", "Carts in memory.")
	mCartsMemory     = describe("carts_memory_bytes", "Estimate of the memory that carts take.")
	mEvicted         = describe("carts_evicted_total", "Carts that left the memory for want of room.")
	mUnsaved         = describe("carts_unsaved", "Carts of which the store lacks something that nodes hold.")
	mOldestUnsaved   = describe("oldest_unsaved_seconds", "Age of the oldest write that the store lacks.")
	mUnderReplicated = describe("carts_under_replicated", "Carts with a write that the database lacks and too few nodes are known to hold.")
	mFlushPause      = describe("flush_pause_seconds", "How long the database is not given what nodes hold.")
	mAcknowledged    = describe("writes_acknowledged_total", "Writes that were acknowledged, by what held them; a file of a node that is alone is its database.", "by")
	mNotDurable      = describe("writes_not_durable_total", "Writes that were refused because neither enough nodes nor the database held them in time.")
	mHedges          = describe("hedges_total", "Writes that went to the database because peers were late.")
	mAskedAbroad     = describe("asked_abroad_total", "Times that other regions were asked to hold a cart, since this one could hold a write neither in enough nodes nor in its database.")

	mStoreReachable   = describe("store_reachable", "Whether the store can be reached.")
	mStoreAway        = describe("store_away_seconds", "For how long the store cannot be reached; 0 while it can.")
	mStoreStalled     = describe("store_stalled_seconds", "For how long the store has taken no commit, reachable or not; 0 while it does.")
	mStoreLatency     = describe("store_commit_duration_seconds", "Durations of commits that succeeded.")
	mStoreOutages     = describe("store_outages_total", "How often the store became unreachable.")
	mStoreCommits     = describe("store_commits_total", "Commits that succeeded.")
	mStoreChanges     = describe("store_changes_total", "Changes of carts in commits that succeeded.")
	mStoreConflicts   = describe("store_conflicts_total", "Rows that another node changed at the same time.")
	mStoreLastBatch   = describe("store_last_commit_changes", "Changes in the last commit.")
	mStoreLastCommit  = describe("store_last_commit_duration_seconds", "Duration of the last commit.")
	mStoreDamaged     = describe("store_damaged_carts", "Stored carts that fail their checksum.")
	mStoreConnections = describe("store_connections", "Connections to the database in use.")
	mStorePending     = describe("store_pending_carts", "Carts whose snapshot is behind the journal.")
	mStoreJournal     = describe("store_journal_bytes", "Size of the journal.")

	mPayloadsRefused  = describe("payloads_refused_total", "Changes from peers that were not taken, by reason.", "reason")
	mPayloadsRepeated = describe("payloads_repeated_total", "Changes from peers that told nothing new.")

	mNode        = describe("node_info", "This node; the value is 1.", "name", "region", "zone", "state")
	mMembers     = describe("members", "Nodes of the region that are alive, this one included.")
	mLinked      = describe("peers_linked", "Other nodes that can hold a write.")
	mNeeded      = describe("peers_needed", "Other nodes that have to hold a write, where the database does not.")
	mClockOffset = describe("clock_offset_seconds", "Median of what the clocks of peers are ahead of this one.")

	mWANMembers      = describe("wan_members", "Nodes of all regions that are alive, this one included.")
	mBridge          = describe("bridge", "Whether this node talks to other regions.")
	mAbroad          = describe("holders_abroad", "Processes of other regions that can hold a write.")
	mRegionReachable = describe("region_reachable", "Whether this node reaches another region, itself or by way of a bridge.", "region")
	mRegionAway      = describe("region_away_seconds", "For how long it does not; 0 while it does.", "region")
	mRegionLinks     = describe("region_links", "Links of this node, a bridge, with bridges of another region.", "region")
	mRegionRoundTrip = describe("region_round_trip_seconds", "Last round trip to another region, by the fastest link of this node, a bridge.", "region")
	mRegionLag       = describe("region_lag_seconds", "Greatest age of what arrived from another region in the last 10 to 20 s, by the clocks there.", "region")
	mRegionAge       = describe("region_arrival_age_seconds", "Ages of what arrived from another region, by the clocks there.", "region")
	mRegionNeedSync  = describe("region_need_sync", "Processes of another region that are to be compared with this one, since something may have been lost.", "region")
	mRegionRepairs   = describe("region_repair_sessions_total", "Comparisons with processes of another region that ended, by what they found.", "region", "outcome")
	mRegionStates    = describe("region_repair_states_sent_total", "Whole carts sent to processes of another region.", "region")
	mCrossings       = describe("region_crossings_total", "Items between this node and another region, by what became of them.", "region", "what")
	mCrossingBytes   = describe("region_crossing_bytes_total", "Bytes of such items, by their direction.", "region", "direction")

	mCrossingsRefused = describe("crossings_refused_total", "Items from peers about regions that are not known, or that these may not tell of.")

	mKeyFileGood   = describe("key_file_good", "Whether the file of cluster keys is good; where it is not, the node goes on with the keys that it had.")
	mGossipRefused = describe("gossip_refused_total", "What came to the peer ports and was refused, by reason.", "reason")
	mRepairs       = describe("repair_sessions_total", "Comparisons with a peer that ended, by what they found.", "outcome")
	mStatesSent    = describe("repair_states_sent_total", "Whole carts sent to peers.")

	mFrames        = describe("frames_total", "Frames on links.", "direction")
	mFrameBytes    = describe("frame_bytes_total", "Bytes of frames on links.", "direction")
	mFramesRefused = describe("frames_refused_total", "Frames that came and were not taken, by reason.", "reason")
	mItemsRefused  = describe("items_refused_total", "Items of frames that were not held, by who refused.", "side")
	mOverflows     = describe("outbox_overflows_total", "Times that what was to be done for a peer had no room.")
	mDropped       = describe("outbox_dropped_total", "Items that were dropped for that, and left to repair.")

	mSites      = describe("sites", "Addresses whose nodes own slots, those whose node was lost a moment ago included.")
	mSlots      = describe("slots", "Slots that this node keeps the carts of: its own, and those that it holds until their owners have what it has.", "role")
	mSlotsShort = describe("slots_under_replicated", "Slots with so few live owners that their writes need another node, or the database.")
	mSlotsMoved = describe("slots_moved_total", "Slots that this node came to own, or ceased to.", "direction")

	mForwarded = describe("requests_forwarded_total", "Requests for carts that this node does not own, by who answered: an owner, or this node because none did.", "by")
	mUnheeded  = describe("forward_tries_unheeded_total", "Times that an owner did not answer such a request.")
	mForOthers = describe("requests_for_others_total", "Requests that other nodes passed on to this one.")

	mLinkUp           = describe("link_up", "Whether the link with a peer is up.", "peer")
	mLinkRoundTrip    = describe("link_round_trip_seconds", "Last round trip on the link.", "peer")
	mLinkBacklogItems = describe("link_backlog_items", "Items that wait to be sent or acknowledged.", "peer")
	mLinkBacklogBytes = describe("link_backlog_bytes", "Bytes that wait to be sent or acknowledged.", "peer")
	mLinkLag          = describe("link_lag_seconds", "Age of the oldest item that waits to be sent or acknowledged.", "peer")
	mLinkUnacked      = describe("link_unacknowledged_bytes", "Bytes that were sent and are not acknowledged.", "peer")
	mLinkNeedsSync    = describe("link_needs_sync", "Whether it is not known what the peer lacks.", "peer")
	mLinkClockOffset  = describe("link_clock_offset_seconds", "How far the peer's clock is ahead of this one.", "peer")
)
