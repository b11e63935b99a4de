package report

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"regexp"
	"testing"
	"time"

	"ctbox/internal/export"
	"ctbox/internal/gen"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/link"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// buildInfo is the only sample that depends on the build.
var buildInfo = regexp.MustCompile(`(?m)^conntrackd_build_info.*\n`)

// number sets every number below v to a different value, in the order of the fields, and
// every bool to true.
func number(v reflect.Value, next *int64) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				number(v.Field(i), next)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			number(v.Index(i), next)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			number(v.Elem(), next)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint64, reflect.Uint32, reflect.Uint:
		*next++
		v.SetUint(uint64(*next))
	case reflect.Int64, reflect.Int:
		*next++
		if v.Type() == reflect.TypeFor[time.Duration]() {
			v.SetInt(*next * int64(time.Second))
		} else {
			v.SetInt(*next)
		}
	}
}

// everything returns a status in which no two numbers are equal, so that swapped fields are
// detected.
func everything() (*node.Status, *Local) {
	s := &node.Status{
		Tasks: make([]node.TaskStatus, 1),
		Status: replicate.Status{
			Links:  make([]replicate.LinkStatus, 2),
			Peers:  make([]replicate.PeerStatus, 1),
			Queues: replicate.QueuesStatus{Queues: make([]replicate.QueueStatus, 1)},
		},
	}
	l := &Local{Exports: make([]export.Status, 1)}
	s.Peers[0].Member = &replicate.MemberStatus{Node: 2, Name: "fw2", Version: 2, Key: 3, Refused: []replicate.Refused{{Reason: "tag"}, {Reason: "replay"}}}
	s.Cluster = replicate.ClusterStatus{Version: 2, Name: "edge", Node: 1, NodeName: "fw1", Key: 4, Refused: []replicate.Refused{{Reason: "tag"}, {Reason: "replay"}}}
	s.Commits.Last.Taken = make([]commit.Taken, 1)
	next := int64(100)
	number(reflect.ValueOf(s).Elem(), &next)
	number(reflect.ValueOf(l).Elem(), &next)
	s.Mode = node.ModeFTFW
	s.Internal.Kind, s.External.Kind, s.Standby.Kind = node.CacheStored, node.CacheInject, node.CacheInject
	s.Links[0].Transport, s.Links[0].Interface, s.Links[0].State = link.TCP, "sync0", link.Running
	s.Links[1].Transport, s.Links[1].Interface, s.Links[1].State = link.UDP, "sync1", link.NoCarrier
	s.Links[1].Active = false
	s.Peers[0].Addr = netip.MustParseAddrPort("192.0.2.2:3780")
	l.Exports[0].Name, l.Exports[0].Error = "ipfix udp 192.0.2.9:4739", "write: connection refused"
	s.Tasks[0].Type = sched.KindCommit
	s.Queues.Queues[0].Name = "txqueue"
	s.Commits.Last.Tables = cache.FlowTable | cache.ExpectTable
	s.Commits.Last.Kept = []string{"fw3"}
	s.Commits.Last.Taken[0].Name, s.Commits.Last.Taken[0].InKernel = "fw2", false
	s.Commits.Last.Refused = []commit.Refusal{{Reason: "commit-create: File exists", Entry: "udp 17 30 src=192.0.2.1"}}
	return s, l
}

// TestEveryNumber compares the machine-readable outputs with the checked-in ones, because
// scripts and dashboards depend on every name.
func TestEveryNumber(t *testing.T) {
	s, l := everything()
	var status bytes.Buffer
	if err := json.Indent(&status, AppendStatusJSON(nil, s, l, All), "", "  "); err != nil {
		t.Fatal(err)
	}
	metrics := buildInfo.ReplaceAll(AppendMetrics(nil, s, l, OpenMetrics), nil)
	s.Peers[0].Ignored = false
	for file, got := range map[string][]byte{
		"testdata/status.json": append(bytes.TrimSpace(status.Bytes()), '\n'), "testdata/status.metrics": metrics,
		"testdata/peers.text": AppendReady(nil, s),
	} {
		gen.File(t, file, got)
	}
}
