package report

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/internal/export"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/follow"
	"ctbox/sync/link"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
	"ctbox/sync/wire"

	"github.com/google/go-cmp/cmp"
)

// example returns a status with the numbers of the captured outputs.
func example() *node.Status {
	return &node.Status{
		Mode: node.ModeFTFW,
		Internal: node.CacheStatus{Kind: node.CacheStored, Flows: cache.TableStatus{
			Active: 10, Objects: 11, Limit: 262144, Bytes: 4096, Created: 10}},
		External: node.CacheStatus{Kind: node.CacheStored, Flows: cache.TableStatus{
			Active: 10, Objects: 10, Created: 36, CreateFailed: 3, NoSpace: 2, Updated: 45, Destroyed: 26}},
		Status: replicate.Status{
			Links: []replicate.LinkStatus{
				{Transport: link.UDP, Interface: "sync1", State: link.NoCarrier},
				{Transport: link.Multicast, Interface: "sync0", State: link.Running, Active: true,
					BytesSent: 584, BytesRecv: 2608, PacketsSent: 37, PacketsRecv: 53, Heard: true, LastMessage: 63 * time.Second},
				{Transport: link.TCP, Interface: "sync2", ServerConnected: true, Refused: 4},
			},
			Wire: replicate.WireStatus{Lost: 14, Before: 2, Received: wire.Counters{BadSize: 1, Truncated: 2}},
			Queues: replicate.QueuesStatus{Nodes: 2, Queues: []replicate.QueueStatus{
				{Name: "txqueue"}, {Name: "errorq", Len: 2, Max: 128, NoSpace: 1}}},
			Replica: replicate.ReplicaStatus{Sent: 37, Received: 53, Pending: 5, Lag: 1500 * time.Millisecond},
			Peers: []replicate.PeerStatus{{Addr: netip.MustParseAddrPort("192.0.2.2:3780"), Messages: 53,
				LastMessage: 250 * time.Millisecond, Answers: true, Path: replicate.PathWhole, PathBytes: 1500}},
		},
		Kernel: node.KernelStatus{Flushes: 3, Status: follow.Status{Events: 7, Filtered: 1, Overruns: 2, Resyncs: 4, BufferSize: 212992}},
		Commits: commit.Status{Count: 1, Age: time.Minute, Last: commit.Result{Tables: cache.FlowTable,
			Flows: commit.Count{Committed: 9, Failed: 1}, Took: 25 * time.Millisecond}},
		Tasks:    []node.TaskStatus{{Type: sched.KindCommit, Running: time.Second, Done: 5}, {Type: sched.KindAny}},
		Uptime:   26*time.Hour + 3*time.Minute + 59*time.Second,
		TaskFail: 1,
	}
}

const summaryText = `cache internal:
current active connections:	          10
connections created:		          10	failed:	           0
connections updated:		           0	failed:	           0
connections destroyed:		           0	failed:	           0

cache external:
current active connections:	          10
connections created:		          36	failed:	           3
connections updated:		          45	failed:	           0
connections destroyed:		          26	failed:	           0

traffic processed:
                   0 Bytes                         0 Pckts

multicast traffic (active device=sync0):
                 584 Bytes sent                 2608 Bytes recv
                  37 Pckts sent                   53 Pckts recv
                   0 Error send                    0 Error recv

message tracking:
                   3 Malformed msgs                   14 Lost msgs

`

func TestText(t *testing.T) {
	local := &Local{ReadFailed: 5, Unknown: 6}
	bypass := example()
	bypass.Internal = node.CacheStatus{Kind: node.CacheBypass, Flows: cache.TableStatus{Created: 1, Updated: 2, Destroyed: 3}}
	bypass.External = node.CacheStatus{Kind: node.CacheInject, Flows: cache.TableStatus{Created: 1, CreateFailed: 2,
		Updated: 3, UpdateFailed: 4, Destroyed: 5, DestroyFailed: 6}}
	stats := example()
	stats.Mode, stats.External = node.ModeStats, node.CacheStatus{}
	tcp := example()
	tcp.Links[1].Active, tcp.Links[2].Active = false, true
	for _, c := range []struct {
		name, got, want string
	}{
		{"summary", string(AppendSummary(nil, example(), cache.FlowTable)), summaryText},
		{"bypass", string(AppendCaches(nil, bypass)), `internal bypass:
connections new:		           1
connections updated:		           2
connections destroyed:		           3

external inject:
connections created:		           1	failed:	           2
connections updated:		           3	failed:	           4
connections destroyed:		           5	failed:	           6

`},
		{"caches", string(AppendCaches(nil, example())), `cache:internal	active objects:		          11
	active/total entries:		          10/          11
	creation OK/failed:		          10/           0
		no memory available:	           0
		no space left in cache:	           0
	update OK/failed:		           0/           0
		entry not found:	           0
	deletion created/failed:	           0/           0
		entry not found:	           0

cache:external	active objects:		          10
	active/total entries:		          10/          10
	creation OK/failed:		          36/           3
		no memory available:	           0
		no space left in cache:	           2
	update OK/failed:		          45/           0
		entry not found:	           0
	deletion created/failed:	          26/           0
		entry not found:	           0

`},
		{"stats", strings.SplitAfter(string(AppendSummary(nil, stats, cache.FlowTable)), "Pckts\n\n")[0], `cache stats:
current active connections:	          10
connections created:		          10	failed:	           0
connections updated:		           0	failed:	           0
connections destroyed:		           0	failed:	           0

traffic processed:
                   0 Bytes                         0 Pckts

`},
		{"links", string(AppendLinks(nil, example())), `UDP traffic device=sync1 status=NO-CARRIER role=BACKUP:
                   0 Bytes sent                    0 Bytes recv
                   0 Pckts sent                    0 Pckts recv
                   0 Error send                    0 Error recv

multicast traffic device=sync0 status=RUNNING role=ACTIVE:
                 584 Bytes sent                 2608 Bytes recv
                  37 Pckts sent                   53 Pckts recv
                   0 Error send                    0 Error recv

TCP traffic device=sync2 status=DOWN role=BACKUP:
                   0 Bytes sent                    0 Bytes recv
                   0 Pckts sent                    0 Pckts recv
                   0 Error send                    0 Error recv

peer:
	sync1	nothing heard
	sync0	last heard 63 s ago
	sync2	nothing heard

`},
		{"network", string(AppendNetwork(nil, tcp)), `network statistics:
	recv:
		Malformed messages:	                   3
		Wrong protocol version:	                   0
		Malformed header:	                   0
		Malformed payload:	                   0
		Bad message type:	                   0
		Truncated message:	                   2
		Bad message size:	                   1
	send:
		Malformed messages:	                   0

sequence tracking statistics:
	recv:
		Packets lost:		                  14
		Packets before:		                   2

TCP traffic (active device=sync2) server=connected client=disconnected:
                   0 Bytes sent                    0 Bytes recv
                   0 Pckts sent                    0 Pckts recv
                   0 Error send                    0 Error recv

peers:
	192.0.2.2	last heard 0 s ago

paths to peers:
	192.0.2.2	messages arrive, also in packets of 1500 bytes

`},
		{"runtime", string(AppendRuntime(nil, example(), local)), `daemon uptime: 1 day 2 h 3 min

netlink stats:
	events received:	                   7
	events filtered:	                   1
	events unknown type:		           0
	catch event failed:		           0
	dump unknown type:		           0
	netlink overrun:		           2
	flush kernel table:		           3
	resync with kernel table:	           4
	current buffer size (in bytes):	      212992

runtime stats:
	child process failed:		           1
		child process segfault:	           0
		child process termsig:	           0
	select failed:			           0
	wait failed:			           0
	local read failed:		           5
	local unknown request:		           6

`},
		{"queues", string(AppendQueues(nil, example())), `allocated queue nodes:		           2

queue txqueue:
current elements:		           0
maximum elements:		  2147483647
not enough space errors:	           0

queue errorq:
current elements:		           2
maximum elements:		         128
not enough space errors:	           1

`},
		{"resend queue", string(AppendResendQueue(nil, []replicate.Resend{{Control: true, Seq: 1795395626, Flags: wire.Ack}, {Seq: 5}})),
			"resent queue (len=2)\ncontrol -> seq:1795395626 flags:8\nobject -> seq:5\n"},
		{"tasks", string(AppendTasks(nil, example(), 77)), "PID=77 type=commit\nPID=77 type=any\n"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestUptime(t *testing.T) {
	for up, want := range map[time.Duration]string{
		0:                               "0 min",
		59 * time.Second:                "0 min",
		90 * time.Minute:                "1 h 30 min",
		24 * time.Hour:                  "1 day 0 min",
		48*time.Hour + 61*time.Minute:   "2 days 1 h 1 min",
		-time.Second:                    "0 min",
		1000*24*time.Hour + time.Minute: "1000 days 1 min",
	} {
		if got := string(appendUptime(nil, up)); got != want {
			t.Errorf("%v: %q, want %q", up, got, want)
		}
	}
}

func addr(s string) (a ctnetlink.Addr) {
	b := netip.MustParseAddr(s).AsSlice()
	copy(a[:], b)
	return a
}

// cached returns a flow as in the internal cache: with attributes that only the kernel
// sends.
func cached() *ctnetlink.Flow {
	f := &ctnetlink.Flow{Has: ctnetlink.HasStatus | ctnetlink.HasTCPState | ctnetlink.HasMark | ctnetlink.HasID | ctnetlink.HasTimeout | ctnetlink.HasUse |
		ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply,
		Status: ctnetlink.StatusSeenReply | ctnetlink.StatusAssured, TCPState: 3, Mark: 0, ID: 165596598, Timeout: 300, Use: 1}
	f.Orig = ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP,
		Src: addr("198.51.100.1"), Dst: addr("203.0.113.1"), SrcPort: 1, DstPort: 2}
	f.Reply = f.Orig.Inverted()
	return f
}

func TestEntries(t *testing.T) {
	internal := &node.Entry{Flow: cached(), ActiveSince: 1900 * time.Millisecond}
	external := &node.Entry{Flow: cached(), ActiveSince: 3 * time.Second, ExpiresIn: 177 * time.Second, Expires: true}
	external.Flow.Has &^= ctnetlink.HasID
	external.Flow.Reply = ctnetlink.Tuple{}
	live := &node.Entry{Flow: cached(), Live: true}
	expect := &node.Entry{Expect: &ctnetlink.Expect{Has: ctnetlink.ExpectHasTimeout | ctnetlink.ExpectHasClass | ctnetlink.ExpectHasHelper, Timeout: 300,
		Tuple: cached().Orig, Mask: cached().Orig, Master: cached().Orig}, ActiveSince: time.Second}
	expect.Expect.Helper.Set("ftp")
	const tuple = "src=198.51.100.1 dst=203.0.113.1 sport=1 dport=2"
	for _, c := range []struct {
		name string
		e    *node.Entry
		f    format.Format
		want string
	}{
		{"internal", internal, format.Text, "tcp      6 ESTABLISHED " + tuple +
			" src=203.0.113.1 dst=198.51.100.1 sport=2 dport=1 [ASSURED] mark=0 [active since 1s]\n"},
		{"external", external, format.Text, "tcp      6 ESTABLISHED " + tuple +
			" [ASSURED] mark=0 [expires in 177s] [active since 3s]\n"},
		{"live", live, format.Text, "tcp      6 300 ESTABLISHED " + tuple + " packets=0 bytes=0" +
			" src=203.0.113.1 dst=198.51.100.1 sport=2 dport=1 packets=0 bytes=0 [ASSURED] mark=0 use=1\n"},
		{"expectation", expect, format.Text, "proto=6 " + tuple + " mask-src=198.51.100.1 mask-dst=203.0.113.1 sport=1 dport=2" +
			" master-src=198.51.100.1 master-dst=203.0.113.1 sport=1 dport=2 class=0 helper=ftp [active since 1s]\n"},
		{"XML", external, format.XML, `<flow><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>198.51.100.1</src>` +
			`<dst>203.0.113.1</dst></layer3><layer4 protonum="6" protoname="tcp"><sport>1</sport><dport>2</dport></layer4></meta>` +
			`<meta direction="reply"><layer3 protonum="0" protoname="unknown"><src></src><dst></dst></layer3>` +
			`<layer4 protonum="0" protoname="unknown"></layer4></meta>` +
			`<meta direction="independent"><state>ESTABLISHED</state><mark>0</mark><assured/></meta></flow>` + "\n"},
		{"JSON", external, format.JSON, `{"family":"ipv4","proto":6,"proto_name":"tcp",` +
			`"original":{"src":"198.51.100.1","dst":"203.0.113.1","sport":1,"dport":2},"state":"ESTABLISHED",` +
			`"status":["SEEN_REPLY","ASSURED"],"mark":0,"expires_in":177,"active_since":3}` + "\n"},
	} {
		got := string(EntryWriter{Format: c.f, Now: time.Unix(1795395626, 0)}.Append(nil, c.e))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// The owner ends an entry that has one, but not in XML.
func TestEntryOwner(t *testing.T) {
	for _, c := range []struct {
		f    format.Format
		e    node.Entry
		want string // what is added
	}{
		{format.Text, node.Entry{Flow: cached(), Owner: "fw1"}, " [active since 0s] [owner=fw1]\n"},
		{format.Text, node.Entry{Flow: cached(), Owner: "fw1", Live: true}, " use=1 [owner=fw1]\n"},
		{format.JSON, node.Entry{Flow: cached(), Owner: "fw1"}, `,"active_since":0,"owner":"fw1"}` + "\n"},
		{format.JSON, node.Entry{Flow: cached(), Owner: "fw1", Live: true}, `,"owner":"fw1"}` + "\n"},
	} {
		got := string(EntryWriter{Format: c.f}.Append(nil, &c.e))
		if !strings.HasSuffix(got, c.want) {
			t.Errorf("%v: %s", c.f, got)
		}
		if without := string(EntryWriter{Format: c.f}.Append(nil, &node.Entry{Flow: cached()})); strings.Contains(without, "owner") {
			t.Errorf("%v, without owners: %s", c.f, without)
		}
	}
	xml := func(owner string) string {
		return string(EntryWriter{Format: format.XML}.Append(nil, &node.Entry{Flow: cached(), Owner: owner}))
	}
	if got, want := xml("fw1"), xml(""); got != want {
		t.Errorf("XML with an owner: %s", got)
	}
}

// -c names the nodes whose flows it has taken, and those that keep theirs.
func TestTaken(t *testing.T) {
	r := commit.Result{Tables: cache.FlowTable, Flows: commit.Count{Committed: 4}, Took: 25 * time.Millisecond, Taken: []commit.Taken{
		{Node: 1, Name: "fw1", Heard: 400 * time.Millisecond, Proven: true, Equal: 1200 * time.Millisecond, Unproven: 1204, Flows: 3},
		{Node: 4, Name: "fw4", Heard: 7 * time.Second, Holes: 1, Proven: true, Unproven: 1, Flows: 1},
		{Heard: -1, Holes: 2},
		{Node: 5, Name: "fw5", Flows: 2, InKernel: true},
	}, Kept: []string{"fw3"}}
	want := `fw1: heard 0.4 s ago, no hole, equal 1.2 s ago, 1204 changes since then unproven: 3 flows taken
fw4: heard 7 s ago, 1 hole, equal 0 s ago, 1 change since then unproven: 1 flow taken
the peer: never heard, 2 holes, never proven equal: 0 flows taken
fw5: heard 0 s ago, no hole, never proven equal: taken, in the kernel already
fw3 keeps its flows
`
	if diff := cmp.Diff(want, string(AppendTaken(nil, &r))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = `{"took":0.025,"missing":0,"flows":{"committed":4,"failed":0},"taken":[` +
		`{"node":1,"name":"fw1","last_message":0.4,"holes":0,"last_equal":1.2,"unproven":1204,"in_kernel":false,"flows":3},` +
		`{"node":4,"name":"fw4","last_message":7,"holes":1,"last_equal":0,"unproven":1,"in_kernel":false,"flows":1},` +
		`{"holes":2,"in_kernel":false,"flows":0},` +
		`{"node":5,"name":"fw5","last_message":0,"holes":0,"in_kernel":true}],"kept":[{"name":"fw3"}]}` + "\n"
	if diff := cmp.Diff(want, string(AppendCommitJSON(nil, &r))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := AppendTaken(nil, &commit.Result{Flows: commit.Count{Committed: 4}}); len(got) != 0 {
		t.Errorf("without owners: %q", got)
	}
}

// Entries in JSON can be read back as flows.
func TestEntryJSONIsAFlow(t *testing.T) {
	line := EntryWriter{Format: format.JSON}.Append(nil, &node.Entry{Flow: cached(), ActiveSince: time.Second, Owner: "fw1"})
	var r format.FlowReader
	var got ctnetlink.Flow
	if err := r.Flow(line, &got, &format.Event{}); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	if got.Orig != cached().Orig || got.TCPState != 3 {
		t.Errorf("read back %+v", got)
	}
}

func TestEndedHasAttributesOfDestroyEvent(t *testing.T) {
	f := cached()
	f.CountersOrig = ctnetlink.Counters{Packets: 6, Bytes: 322}
	f.Has |= ctnetlink.HasTimestampStart | ctnetlink.HasTimestampStop
	f.Has &^= ctnetlink.HasMark
	f.TimestampStart, f.TimestampStop = 1795395626e9, 1795395629e9
	want := "tcp      6 ESTABLISHED src=198.51.100.1 dst=203.0.113.1 sport=1 dport=2 packets=6 bytes=322" +
		" src=203.0.113.1 dst=198.51.100.1 sport=2 dport=1 packets=0 bytes=0 [ASSURED] delta-time=3"
	if got := string(AppendEnded(nil, f, time.Unix(1795395630, 0))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Text, JSON and metrics have every counter of the helpers.
func TestHelpers(t *testing.T) {
	h := &Helpers{Names: []string{"ftp (inet, tcp, queue 1)", "rpc (inet6, udp, queue 2)"},
		Packets: 1001, Unread: 102, Dropped: 103, Rewritten: 104, Expectations: 605, Refused: 106, Verdicts: 107, Overruns: 108}
	want := `user-space helpers:
	ftp (inet, tcp, queue 1)
	rpc (inet6, udp, queue 2)

packets:
	read:			                1001
	not understood:		                 102
	dropped:		                 103
	rewritten:		                 104
	verdicts refused:	                 107
	queue overruns:		                 108

expectations:
	created:		                 499
	refused:		                 106

`
	if got := string(AppendHelpers(nil, h)); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := AppendHelpers(nil, nil); len(got) > 0 {
		t.Errorf("without helpers %q", got)
	}
	const members = `{"mode":"none","helpers":{"packets":1001,"unread":102,"dropped":103,"rewritten":104,` +
		`"expectations":605,"expectations_refused":106,"verdicts_refused":107,"overruns":108}}` + "\n"
	if got := string(AppendStatusJSON(nil, &node.Status{}, &Local{Helpers: h}, SectionHelpers)); got != members {
		t.Errorf("got %s", got)
	}
	text := string(AppendMetrics(nil, &node.Status{}, &Local{Helpers: h}, PrometheusText))
	for _, sample := range []string{"packets_total 1001", "packets_unread_total 102", "packets_dropped_total 103", "packets_rewritten_total 104",
		"expectations_total 605", "expectations_refused_total 106", "verdicts_refused_total 107", "overruns_total 108"} {
		if !strings.Contains(text, "\nconntrackd_helper_"+sample+"\n") {
			t.Errorf("%s is missing", sample)
		}
	}
	if text := string(AppendMetrics(nil, &node.Status{}, &Local{}, PrometheusText)); strings.Contains(text, "helper") {
		t.Errorf("a daemon without helpers has\n%s", text)
	}
}

func TestExports(t *testing.T) {
	all := []export.Status{{
		Name: "ipfix udp 192.0.2.9:4739", Made: 1001, Sent: 802, Queued: 103, ThrownAway: 96, Resent: 33, Messages: 15, Failures: 6, Reconnects: 7,
		EventsLost: 18, Flows: 519, FlowsNow: 220, Error: "write: connection refused",
	}, {Name: "json file /var/log/flows.json"}}
	want := `export ipfix udp 192.0.2.9:4739:
	cannot send: write: connection refused
	flows now:		                 220
	flows in all:		                 519
	events lost:		                  18
	records made:		                1001
	records sent:		                 802
	records queued:		                 103
	records thrown away:	                  96
	records resent:		                  33
	messages:		                  15
	failures:		                   6
	reconnects:		                   7

`
	if got := string(AppendExports(nil, all[:1])); got != want {
		t.Errorf("got\n%s", got)
	}
	const members = `{"mode":"none","exports":[{"name":"ipfix udp 192.0.2.9:4739","records":1001,"sent":802,"queued":103,"thrown_away":96,"resent":33,` +
		`"messages":15,"failures":6,"reconnects":7,"events_lost":18,"flows":519,"flows_now":220,"error":"write: connection refused"}]}` + "\n"
	if got := string(AppendStatusJSON(nil, &node.Status{}, &Local{Exports: all[:1]}, SectionExports)); got != members {
		t.Errorf("got %s", got)
	}
	text := string(AppendMetrics(nil, &node.Status{}, &Local{Exports: all}, PrometheusText))
	for _, sample := range []string{
		`records_thrown_away_total{export="1",name="ipfix udp 192.0.2.9:4739"} 96`, `up{export="1",name="ipfix udp 192.0.2.9:4739"} 0`,
		`up{export="2",name="json file /var/log/flows.json"} 1`,
	} {
		if !strings.Contains(text, "\nconntrackd_export_"+sample+"\n") {
			t.Errorf("%s is missing", sample)
		}
	}
}

// Every JSON output is valid and agrees with the text.
func TestStatusJSON(t *testing.T) {
	for mode := node.ModeNone; mode <= node.ModeNOTRACK; mode++ {
		s := example()
		s.Mode = mode
		for section := All; section <= SectionExports; section++ {
			line := AppendStatusJSON(nil, s, &Local{Helpers: &Helpers{}, Exports: make([]export.Status, 2)}, section)
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatalf("mode %d, section %d: %v in\n%s", mode, section, err, line)
			}
			if got["mode"] != modeNames[mode] {
				t.Errorf("mode %d is %v", mode, got["mode"])
			}
		}
	}
	var got struct {
		Uptime float64
		Caches map[string]map[string]any
		Links  []struct {
			Interface string
			Active    bool
			Sent      struct{ Bytes int }
		}
		Peers []struct {
			Address      string
			Last_message float64
		}
		Commits struct {
			Last struct{ Flows struct{ Failed int } }
		}
		Replication struct{ Lag float64 }
		Malformed   map[string]int
		Lost        int
		Before      int
	}
	if err := json.Unmarshal(AppendStatusJSON(nil, example(), &Local{}, All), &got); err != nil {
		t.Fatal(err)
	}
	if got.Uptime != 93839 || got.Caches["external"]["flows"].(map[string]any)["created"] != 36.0 ||
		got.Links[1].Interface != "sync0" || !got.Links[1].Active || got.Links[1].Sent.Bytes != 584 ||
		got.Peers[0].Address != "192.0.2.2" || got.Peers[0].Last_message != 0.25 ||
		got.Commits.Last.Flows.Failed != 1 || got.Replication.Lag != 1.5 ||
		got.Malformed["truncated"] != 2 || got.Malformed["bad_size"] != 1 || got.Lost != 14 || got.Before != 2 {
		t.Errorf("got %+v", got)
	}
}

// A section has the members of that section only.
func TestSectionsOfStatusJSON(t *testing.T) {
	of := map[string]Section{"caches": SectionCache, "links": SectionLink, "malformed": SectionNetwork,
		"queues": SectionQueue, "uptime": SectionRuntime}
	for name, section := range of {
		var got map[string]any
		if err := json.Unmarshal(AppendStatusJSON(nil, example(), &Local{}, section), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for other := range of {
			if _, has := got[other]; has != (other == name) {
				t.Errorf("the section of %s has %s = %t", name, other, has)
			}
		}
	}
}

// sampleLine is the ABNF of OpenMetrics 1.0 as far as it is used here.
var sampleLine = regexp.MustCompile(`^([a-z_]+)(\{[a-z_]+="([^"\\\n]|\\.)*"(,[a-z_]+="([^"\\\n]|\\.)*")*\})? [0-9.]+$`)

func TestMetricsAreOpenMetrics(t *testing.T) {
	s := example()
	s.ExpectationSync = true
	s.Links[0].Interface = `odd"\name`
	text := string(AppendMetrics(nil, s, &Local{Unknown: 3}, OpenMetrics))
	body, ok := strings.CutSuffix(text, "# EOF\n")
	if !ok {
		t.Fatalf("no # EOF at the end of\n%s", text)
	}
	seen := map[string]bool{}
	var name, typ string
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, typ, _ = strings.Cut(rest, " ")
			continue
		}
		if strings.HasPrefix(line, "# ") {
			if f := strings.Fields(line); f[2] != name {
				t.Errorf("%q within family %s", line, name)
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("no sample: %q", line)
			continue
		}
		want := name + (&family{typ: typ}).suffix()
		if m[1] != want {
			t.Errorf("sample %s in family %s of type %s", m[1], name, typ)
		}
		if seen[m[1]+m[2]] {
			t.Errorf("twice: %s%s", m[1], m[2])
		}
		seen[m[1]+m[2]] = true
	}
	for _, want := range []string{
		"conntrackd_build_info{version=", "conntrackd_cache_entries{cache=\"internal\",table=\"flows\"} 10\n",
		"conntrackd_cache_operations_total{cache=\"external\",table=\"flows\",operation=\"update\",result=\"ok\"} 45\n",
		"conntrackd_link_bytes_total{link=\"2\",interface=\"sync0\",transport=\"multicast\",direction=\"sent\"} 584\n",
		"conntrackd_messages_malformed_total{reason=\"truncated\"} 2\n",
		"conntrackd_peer_age_seconds{peer=\"192.0.2.2\"} 0.25\n",
		"conntrackd_last_commit_entries{table=\"flows\",result=\"failed\"} 1\n",
		"conntrackd_replication_lag_seconds 1.5\n", "conntrackd_control_unknown_total 3\n",
		"conntrackd_cache_entries{cache=\"internal\",table=\"expectations\"} 0\n",
		"conntrackd_link_up{link=\"2\",interface=\"sync0\",transport=\"multicast\"} 1\n",
		"conntrackd_link_up{link=\"1\",interface=\"odd\\\"\\\\name\",transport=\"udp\"} 0\n",
		"# UNIT conntrackd_link_bytes bytes\n", `interface="odd\"\\name"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

// Both formats have the same samples, and the Prometheus format has no metadata that only
// OpenMetrics defines.
func TestMetricsFormats(t *testing.T) {
	s, l := everything()
	samples := func(format MetricsFormat) (all []string) {
		for line := range strings.Lines(string(AppendMetrics(nil, s, l, format))) {
			if !strings.HasPrefix(line, "#") {
				all = append(all, line)
			}
		}
		return all
	}
	if got, want := samples(PrometheusText), samples(OpenMetrics); !slices.Equal(got, want) {
		t.Errorf("Prometheus' format has\n%s\nOpenMetrics\n%s", got, want)
	}
	text := string(AppendMetrics(nil, s, l, PrometheusText))
	for _, not := range []string{"# EOF", "# UNIT", " info\n"} {
		if strings.Contains(text, not) {
			t.Errorf("Prometheus' format has %q", not)
		}
	}
	for _, want := range []string{"# TYPE conntrackd_build_info gauge\n", "# HELP conntrackd_cache_full_total ", "# TYPE conntrackd_cache_full_total counter\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("Prometheus' format lacks %q", want)
		}
	}
}

// A table that the last commit did not include has no samples.
func TestMetricsOfTheLastCommit(t *testing.T) {
	text := string(AppendMetrics(nil, example(), &Local{}, PrometheusText))
	if line := `conntrackd_last_commit_entries{table="expectations"`; strings.Contains(text, line) {
		t.Errorf("a commit of flows has %s", line)
	}
}

// Metrics that a mode does not have are absent, not 0.
func TestMetricsOfOtherModes(t *testing.T) {
	text := string(AppendMetrics(nil, &node.Status{Mode: node.ModeStats,
		Internal: node.CacheStatus{Kind: node.CacheStored}}, &Local{}, PrometheusText))
	for _, not := range []string{"conntrackd_messages", "conntrackd_replication", "external", "conntrackd_commits"} {
		if strings.Contains(text, not) {
			t.Errorf("statistics mode has %s", not)
		}
	}
	if !strings.Contains(text, `conntrackd_cache_entries{cache="stats",table="flows"} 0`) {
		t.Error("the cache's entries are missing")
	}
}

// docs/metrics.md lists exactly the metrics of the table.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(conntrackd_[a-z_]+)` \\| ([a-z]+) ").FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = m[2]
	}
	for _, f := range families() {
		name := f.name + f.suffix()
		if documented[name] != f.typ {
			t.Errorf("docs/metrics.md has no row for %s, a %s", name, f.typ)
		}
		if strings.HasSuffix(f.name, "_seconds") != (f.unit == "seconds") || strings.HasSuffix(f.name, "_bytes") != (f.unit == "bytes") {
			t.Errorf("%s has unit %q", f.name, f.unit)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/metrics.md has %s, which there is not", name)
	}
}

func TestAllocations(t *testing.T) {
	e := &node.Entry{Flow: cached(), ActiveSince: time.Second, Owner: "fw1"}
	buf := make([]byte, 0, 4096)
	for _, f := range []format.Format{format.Text, format.XML, format.JSON} {
		w := EntryWriter{Format: f}
		if n := testing.AllocsPerRun(100, func() { buf = w.Append(buf[:0], e) }); n > 0 {
			t.Errorf("format %d: %v allocations an entry", f, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { buf = AppendEnded(buf[:0], e.Flow, time.Unix(0, 0)) }); n > 0 {
		t.Errorf("%v allocations an ended flow", n)
	}
}

func BenchmarkEntry(b *testing.B) {
	e := &node.Entry{Flow: cached(), ActiveSince: time.Second}
	w := EntryWriter{Format: format.Text}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = w.Append(buf[:0], e)
	}
}

// Lost events follow the text of conntrack-tools, and only if some are not recovered.
func TestMissingEvents(t *testing.T) {
	s := example()
	before := string(AppendSummary(nil, s, cache.FlowTable))
	s.Peers = append(s.Peers, replicate.PeerStatus{Incomplete: 1600}, replicate.PeerStatus{Incomplete: 50})
	s.Kernel.Missing = 3
	want := before + "1650 events of the peer were lost and not yet made up\n\n3 events of this node were lost and not yet made up\n\n"
	if diff := cmp.Diff(want, string(AppendSummary(nil, s, cache.FlowTable))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The status distinguishes what is known of the way to a peer from what is not.
func TestPaths(t *testing.T) {
	s := example()
	for _, c := range []struct {
		p    replicate.PeerStatus
		want string
	}{
		{replicate.PeerStatus{}, "not known: the peer does not say what arrives (conntrack-tools does not)"},
		{replicate.PeerStatus{OneWay: true}, "no message arrives"},
		{replicate.PeerStatus{Answers: true, OneWay: true, Path: replicate.PathWhole, PathBytes: 1500}, "no message arrives"},
		{replicate.PeerStatus{Answers: true}, "messages arrive"},
		{replicate.PeerStatus{Answers: true, Path: replicate.PathBroken, PathBytes: 9000}, "messages arrive, but no packet of 9000 bytes"},
	} {
		c.p.Addr = s.Peers[0].Addr
		s.Peers[0] = c.p
		if text := string(AppendNetwork(nil, s)); !strings.HasSuffix(text, "paths to peers:\n\t192.0.2.2\t"+c.want+"\n\n") {
			t.Errorf("%+v: %s", c.p, text)
		}
	}
	s.Mode = node.ModeALARM
	if text := string(AppendNetwork(nil, s)); strings.Contains(text, "paths") {
		t.Errorf("ALARM, whose nodes announce nothing: %s", text)
	}
}
