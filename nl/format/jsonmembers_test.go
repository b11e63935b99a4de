package format

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// derived are the members that are written for readers and skipped when a flow is read
// back, because they follow from others.
var derived = []string{"progname", "delta_time", "label_names"}

// Every member of a flow is in docs/json.md, and what is written can be read back.
func TestMembersAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	readable := make(map[string]bool)
	for _, ms := range []members{flowMembers, tupleMembers, tcpMembers, sctpMembers, dccpMembers, seqAdjustMembers, seqAdjMembers, synproxyMembers} {
		for _, m := range ms {
			readable[m.name] = true
		}
	}
	written := make(map[string]bool)
	var collect func(object map[string]any)
	collect = func(object map[string]any) {
		for name, value := range object {
			written[name] = true
			if inner, ok := value.(map[string]any); ok {
				collect(inner)
			}
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		var object map[string]any
		event := Event{Type: EventType(r.IntN(4)), Time: r.Int64(), PortID: r.Uint32() & 1, Progname: "x"}
		if err := json.Unmarshal(AppendFlow(nil, randomFlow(r), &Style{Format: JSON, Now: now, Labels: []string{"a"}}, &event), &object); err != nil {
			t.Fatal(err)
		}
		collect(object)
	}
	for name := range written {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/json.md lacks the member %s", name)
		}
		if readable[name] == slices.Contains(derived, name) {
			t.Errorf("%s: readable %v", name, readable[name])
		}
	}
	for name := range readable {
		if !written[name] && name != "master" {
			t.Errorf("no flow has the member %s", name)
		}
	}
}
