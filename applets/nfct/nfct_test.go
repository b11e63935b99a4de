package nfct

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/protofile"
	"ctbox/nl"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/cttimeout"

	"github.com/google/go-cmp/cmp"
)

// -o json and --netns come in front or at the end, where they change no command line that
// conntrack-tools accepts.
func TestParseOwnOptions(t *testing.T) {
	for _, tt := range []struct {
		line string
		want invocation
		err  string
	}{
		{"list timeout -o json", invocation{command: cmdList, json: true}, ""},
		{"-o json list timeout", invocation{command: cmdList, json: true}, ""},
		{"--output json t l", invocation{command: cmdList, json: true}, ""},
		{"helper get ftp --output json", invocation{command: cmdGet, subsystem: subHelper, args: []string{"ftp"}, json: true}, ""},
		{"default-get timeout inet tcp -o json", invocation{command: cmdDefaultGet, args: []string{"inet", "tcp"}, json: true}, ""},
		{"get timeout -o", invocation{command: cmdGet, args: []string{"-o"}}, ""},
		{"get timeout -o -o json", invocation{command: cmdGet, args: []string{"-o"}, json: true}, ""},
		{"delete timeout -o", invocation{command: cmdDelete, args: []string{"-o"}}, ""},
		{"add timeout -o json inet udp -o json", invocation{command: cmdAdd, args: strings.Fields("-o json inet udp -o json")}, ""},
		{"list timeout -o text", invocation{command: cmdList}, "unknown output format `text', there is only json"},
		{"-o json add timeout x inet udp replied 1", invocation{command: cmdAdd, args: strings.Fields("x inet udp replied 1")},
			"-o goes with list, get and default-get"},
		{"list timeout --netns x -o json", invocation{command: cmdList, json: true, own: ownOptions{netns: "x", hasNetNS: true}}, ""},
		{"--netns x -o json --netns=y list timeout", invocation{command: cmdList, json: true, own: ownOptions{netns: "y", hasNetNS: true}}, ""},
		{"flush timeout --netns=", invocation{command: cmdFlush, own: ownOptions{hasNetNS: true}}, ""},
		{"add timeout x inet udp replied 1 --netns a/b", invocation{command: cmdAdd, args: strings.Fields("x inet udp replied 1"),
			own: ownOptions{netns: "a/b", hasNetNS: true}}, ""},
		{"delete helper --netns inet", invocation{command: cmdDelete, subsystem: subHelper, args: []string{"--netns", "inet"}}, ""},
		{"delete helper x --netns inet", invocation{command: cmdDelete, subsystem: subHelper, args: []string{"x"}, own: ownOptions{netns: "inet", hasNetNS: true}}, ""},
		{"delete timeout --netns", invocation{command: cmdDelete, args: []string{"--netns"}}, ""},
		{"--netns x", invocation{own: ownOptions{netns: "x", hasNetNS: true}}, ""},
		{"-o json", invocation{}, ""},
		{"-o json list", invocation{}, ""},
	} {
		got, err := parse(append([]string{"nfct"}, strings.Fields(tt.line)...))
		text := ""
		if err != nil {
			text = err.Error()
		}
		got.word, got.own.format, got.own.hasFormat = "", "", false
		if len(got.args) == 0 {
			got.args = nil
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(invocation{}, ownOptions{})); diff != "" || text != tt.err {
			t.Errorf("nfct %s: error %q, want %q (-want +got):\n%s", tt.line, text, tt.err, diff)
		}
	}
}

func TestPolicyText(t *testing.T) {
	var some cttimeout.Timeouts
	some.Set(2, 7)
	for _, tt := range []struct {
		policy cttimeout.Policy
		text   string
		json   string
	}{
		{
			cttimeout.Policy{Has: cttimeout.HasName | cttimeout.HasFamily | cttimeout.HasProto | cttimeout.HasUse, Name: "x\n",
				Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP, Use: 1, Timeouts: some},
			".x\n = {\n\t.l3proto = 2,\n\t.l4proto = 17,\n\t.policy = {\n\t\t.UNREPLIED = 0,\n\t\t.REPLIED = 7,\n\t},\n};\n",
			`{"name":"x\u000a","family":"ipv4","proto":17,"proto_name":"udp","use":1,"timeouts":{"REPLIED":7}}` + "\n",
		},
		{
			// A protocol without states of its own is shown as the generic one.
			cttimeout.Policy{Has: cttimeout.HasProto, Proto: 50, Timeouts: some},
			"\t.l4proto = 50,\n\t.policy = {\n\t\t.TIMEOUT = 0,\n\t},\n};\n",
			`{"proto":50,"timeouts":{}}` + "\n",
		},
		{
			cttimeout.Policy{Has: cttimeout.HasProto | cttimeout.HasFamily, Proto: 255, Family: 258},
			"\t.l3proto = 258,\n\t.l4proto = 255,\n};\n",
			`{"proto":255,"proto_name":"generic","timeouts":{}}` + "\n",
		},
		{cttimeout.Policy{}, "};\n", `{"timeouts":{}}` + "\n"},
	} {
		if diff := cmp.Diff(tt.text, string(appendPolicy(nil, &tt.policy))); diff != "" {
			t.Errorf("text (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(tt.json, string(appendPolicyJSON(nil, &tt.policy))); diff != "" {
			t.Errorf("JSON (-want +got):\n%s", diff)
		}
	}
}

// Names are looked up in the file first, and those that connection tracking needs are
// known without it. The system's file agrees with them.
func TestProtocolNamed(t *testing.T) {
	for _, tt := range []struct {
		file, name string
		want       uint8
		ok         bool
	}{
		{"testdata/protocols", "esp", 50, true},
		{"testdata/protocols", "udplite", 136, true}, // not in that file
		{"testdata/protocols", "mptcp", 0, false},
		{"testdata/protocols", "6", 0, false},
		{"testdata/protocols", "", 0, false},
		{"testdata/protocols", "icmpv6", 58, true},
		{"testdata/missing", "IPv6-ICMP", 58, true},
		{"testdata/missing", "generic", 255, true},
		{"testdata/missing", "esp", 0, false},
	} {
		if got, ok := protocolNamed(tt.file, tt.name); got != tt.want || ok != tt.ok {
			t.Errorf("%q in %s: %d, %v; want %d, %v", tt.name, tt.file, got, ok, tt.want, tt.ok)
		}
	}
	for name, want := range trackedNames {
		if got, _ := protocolNamed(protofile.File, name); got != want {
			t.Errorf("%s is %d in %s, %d here", name, got, protofile.File, want)
		}
	}
}

// FuzzArguments reads command lines and their parameters as Run does, without a
// kernel.
func FuzzArguments(f *testing.F) {
	for _, line := range []string{
		"nfct\nadd\ntimeout\nx\ninet\ntcp\nestablished\n100\nclose\n5",
		"nfct\nd\nt\n", "nfct\n\n", "nfct\n-o\njson\nlist\ntimeout", "nfct\nget\nhelper\nftp\ninet\ntcp\n-o\njson",
		"nfct\nhelper\ndisable\ntns\ninet6\ntcp\nx", "nfct\ndefault-set\ntimeout\ninet\nIPv6-ICMP\ntimeout\n -1", "",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		argv := strings.Split(line, "\n")
		inv, err := parse(argv)
		if err != nil {
			return
		}
		if int(inv.command) >= len(commands) || int(inv.subsystem) >= len(subsystems) || inv.subsystem == subHelp {
			t.Fatalf("%q is %+v", argv, inv)
		}
		if inv.json && inv.command != cmdList && inv.command != cmdGet && inv.command != cmdDefaultGet {
			t.Fatalf("%q: JSON of nothing", argv)
		}
		s := session{protocols: "testdata/protocols", longest: 1000}
		if len(inv.args) >= 2 {
			if p, err := s.parsePolicy(inv.args); err == nil {
				names := cttimeout.StateNames(p.Proto)
				for i := range uint8(math.MaxUint8) {
					if v, ok := p.Timeouts.Get(cttimeout.State(i)); ok && (v > s.longest || int(i) > len(names)) {
						t.Fatalf("%q: state %d has %d seconds", argv, i, v)
					}
				}
			}
		}
		if len(inv.args) >= 1 {
			if key, err := parseKey(inv.args); err == nil && len(key.Name) > cthelper.NameMax {
				t.Fatalf("%q: name %q", argv, key.Name)
			}
		}
		if len(inv.args) >= 3 {
			if key, b, err := parseBuiltin(inv.args); err == nil && (!slices.Contains(b.Protocols, key.Proto) || b.Name != key.Name) {
				t.Fatalf("%q: %+v is %+v", argv, key, b)
			}
		}
	})
}

// FuzzShow prints whatever the kernel could send, in either form.
func FuzzShow(f *testing.F) {
	var all cttimeout.Timeouts
	for i := range cttimeout.State(12) {
		all.Set(i, 1)
	}
	p := cttimeout.Policy{Has: cttimeout.HasName | cttimeout.HasProto | cttimeout.HasFamily, Name: "x", Family: 2, Proto: 6, Timeouts: all}
	h := cthelper.Helper{Has: cthelper.HasName | cthelper.HasTuple | cthelper.HasPolicies, Name: "x", Policies: []cthelper.Policy{{Name: "\xff"}}}
	policy, err := p.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	helper, err := h.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(policy)
	f.Add(helper)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p cttimeout.Policy
		if p.Decode(b) == nil {
			appendPolicy(nil, &p)
			if out := appendPolicyJSON(nil, &p); !json.Valid(out) || slices.Index(out, '\n') != len(out)-1 {
				t.Fatalf("%+v is %s", p, out)
			}
		}
		var h cthelper.Helper
		if h.Decode(b) == nil {
			appendHelper(nil, &h)
			if out := appendHelperJSON(nil, &h); !json.Valid(out) || slices.Index(out, '\n') != len(out)-1 {
				t.Fatalf("%+v is %s", h, out)
			}
		}
	})
}
