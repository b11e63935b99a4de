package nfct

import (
	"context"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"

	"github.com/google/go-cmp/cmp"
)

// Helpers belong to the whole machine, so this test changes nothing: where the kernel
// supports them it only asks for one that does not exist. Elsewhere every command is
// refused, with the reason that names what is missing.
func TestParityOfHelperCommands(t *testing.T) {
	tw := twins(t)
	var available bool
	tw.Ours.Do(func() {
		c, err := nl.Dial(nl.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if available, err = cthelper.Available(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("nfnetlink_cthelper available: %v", available)
	type refused struct{ line, reason string }
	var cases []refused
	if available {
		cases = []refused{
			{"get helper ctbox-none", "there is no user-space helper `ctbox-none'"},
			{"list helper", ""},
		}
	} else {
		for _, line := range []string{
			"list helper", "flush helper", "get helper ftp", "get helper ftp inet tcp", "get helper ftp inet",
			"delete helper ftp", "delete helper ftp inet6 tcp", "delete helper ftp inet6",
			"add helper ftp inet tcp", "add helper rpc inet6 udp", "disable helper tns inet tcp", "helper disable tns inet6 tcp",
		} {
			cases = append(cases, refused{line,
				"kernel without user-space helpers: load module nfnetlink_cthelper or set CONFIG_NF_CT_NETLINK_HELPER"})
		}
	}
	for _, tt := range cases {
		if _, reason := parity(t, tw, words(tt.line)...); reason != tt.reason {
			t.Errorf("nfct %s: reason %q, want %q", tt.line, reason, tt.reason)
		}
	}
	if available {
		return
	}
	// The hint about a kernel's own helper belongs to another refusal.
	if r := tw.Ours.Run("", netnstest.Applet(t, "nfct"), "add", "helper", "ftp", "inet", "tcp"); strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("more than a line: %q", r.Stderr)
	}
}

// What Debian's nfct printed for helpers on Linux 6.1.192.
// As in conntrack-tools, an entry for a family over which the helper expects nothing is
// created; a warning is ours.
func TestHelperOfAnotherFamily(t *testing.T) {
	for line, want := range map[string]string{
		"dhcpv6 inet udp":  prefix + "warning: helper dhcpv6 never expects anything over inet\n",
		"dhcpv6 inet6 udp": "", "ftp inet tcp": "", "ftp inet6 tcp": "",
	} {
		args := strings.Fields(line)
		key, known, err := parseBuiltin(args)
		if err != nil {
			t.Fatal(err)
		}
		if got := familyWarning(args, key, known); got != want {
			t.Errorf("%s: %q", line, got)
		}
	}
}

func TestHelperText(t *testing.T) {
	for _, tt := range []struct {
		helper cthelper.Helper
		text   string
		json   string
	}{
		{
			cthelper.Helper{Name: "rpc", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP, PrivDataLen: 16,
				Has: cthelper.HasPrivDataLen, Policies: []cthelper.Policy{{Name: "rpc", ExpectMax: 1, ExpectTimeout: 300}}},
			"{\n\t.name = rpc,\n\t.queuenum = 0,\n\t.l3protonum = 2,\n\t.l4protonum = 6,\n\t.priv_data_len = 16,\n\t.status = disabled,\n};\n",
			`{"name":"rpc","family":"ipv4","proto":6,"proto_name":"tcp","queue":0,"priv_data_len":16,"status":"disabled",` +
				`"policies":[{"name":"rpc","expect_max":1,"expect_timeout":300}]}` + "\n",
		},
		{
			cthelper.Helper{Name: "am\"anda", Family: nl.FamilyIPv6, Proto: ctnetlink.ProtoUDP, Queue: 3, Status: cthelper.Enabled,
				Policies: []cthelper.Policy{{Name: "a", ExpectMax: 3, ExpectTimeout: 180}, {Name: "b", ExpectMax: 255}}},
			"{\n\t.name = am\"anda,\n\t.queuenum = 3,\n\t.l3protonum = 10,\n\t.l4protonum = 17,\n\t.priv_data_len = 0,\n\t.status = enabled,\n};\n",
			`{"name":"am\"anda","family":"ipv6","proto":17,"proto_name":"udp","queue":3,"status":"enabled",` +
				`"policies":[{"name":"a","expect_max":3,"expect_timeout":180},{"name":"b","expect_max":255,"expect_timeout":0}]}` + "\n",
		},
		{
			cthelper.Helper{Name: "x", Family: 7, Proto: 200},
			"{\n\t.name = x,\n\t.queuenum = 0,\n\t.l3protonum = 7,\n\t.l4protonum = 200,\n\t.priv_data_len = 0,\n\t.status = disabled,\n};\n",
			`{"name":"x","proto":200,"queue":0,"status":"disabled","policies":[]}` + "\n",
		},
	} {
		if diff := cmp.Diff(tt.text, string(appendHelper(nil, &tt.helper))); diff != "" {
			t.Errorf("text (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(tt.json, string(appendHelperJSON(nil, &tt.helper))); diff != "" {
			t.Errorf("JSON (-want +got):\n%s", diff)
		}
	}
}
