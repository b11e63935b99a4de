package conntrack

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// An SCTP tag is the same through every way in and out: as a number of --orig-vtag and
// -o save, which is conntrack-tools', as one of JSON, which is RFC 9260's, and in the
// kernel's attribute. The two numbers differ by the order of their bytes on
// little-endian machines, as docs/json.md says.
func TestVerificationTags(t *testing.T) {
	const command, answer = 1, 67305985
	wire := uint32(command)
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		wire = bits.ReverseBytes32(wire)
	}
	ns := netnstest.New(t, "vtag")
	const line = "-p sctp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2"
	must(t, ns, "-I -t 1000 "+line+" --state ESTABLISHED --orig-vtag 1 --reply-vtag 67305985", "1 flow entries have been created.")
	check := func(how string) {
		t.Helper()
		ns.Do(func() {
			conn, err := nl.Dial(nl.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := ctnetlink.DumpFlows(t.Context(), conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
				if f.SCTPVtagOrig != wire || ctnetlink.CommandVtag(f.SCTPVtagReply) != answer {
					t.Errorf("%s: the kernel has %#x, %#x", how, f.SCTPVtagOrig, f.SCTPVtagReply)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
		for form, want := range map[string]string{"save": " --orig-vtag 1 --reply-vtag 67305985", "json": `"vtag_original":` + strconv.FormatUint(uint64(wire), 10) + ","} {
			if out := must(t, ns, "-L -o "+form, "1 flow entries have been shown."); !strings.Contains(out, want) {
				t.Errorf("%s: -o %s writes %s, want %s", how, form, out, want)
			}
		}
		if theirs := ns.Must("/usr/sbin/conntrack", "-L", "-o", "save"); !strings.Contains(theirs, " --orig-vtag 1 --reply-vtag 67305985") {
			t.Errorf("%s: Debian's conntrack saves %s", how, theirs)
		}
	}
	check("-I")
	for _, form := range []string{"save", "json"} {
		saved := must(t, ns, "-L -o "+form, "1 flow entries have been shown.")
		must(t, ns, "-F", "connection tracking table has been emptied.")
		if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
			t.Fatalf("-R of %s%+v", saved, r)
		}
		check("-R of -o " + form)
	}
	must(t, ns, "-U -p sctp --orig-vtag 5", "1 flow entries have been updated.")
	must(t, ns, "-U -p sctp --orig-vtag 1", "1 flow entries have been updated.")
	check("-U")
}
