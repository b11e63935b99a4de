//go:build root

// The machine of make test-kernel, which sets no such tag, loads no helper for a rule.

package doctor

import (
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
)

// Each helper of the kernel that is loaded is reported until the rule that the finding names is
// there. The modules are a tree: loading one would change the machine.
func TestHelperRules(t *testing.T) {
	ns := netnstest.New(t, "helperrules")
	var conn *nl.Conn
	ns.Do(func() {
		var err error
		if conn, err = nl.Dial(nl.Config{}); err != nil {
			t.Fatal(err)
		}
	})
	defer conn.Close()
	look := func(files map[string]string) []finding {
		t.Helper()
		return checked(t, &host{conn: conn, root: tree(t, files)}, checkHelperRules)
	}
	loaded := map[string]string{"sys/module/nf_conntrack_ftp/initstate": "live\n", "sys/module/nf_conntrack_sip/initstate": "live\n"}
	if all := look(map[string]string{"sys/module/nf_conntrack_ftp/parameters/ports": ""}); len(all) != 0 {
		t.Errorf("built in: %+v", all)
	}
	all := look(loaded)
	wantFinding(t, all, "note", "x", "the helper ftp (module nf_conntrack_ftp) is there, but no rule")
	wantFinding(t, all, "note", "x", "the helper sip (module nf_conntrack_sip) is there, but no rule")
	loaded["proc/thread-self/net/ip_tables_names"] = "filter\nraw\n"
	wantFinding(t, look(loaded), "note", "x", "iptables-legacy")
	loaded[sysctls+"nf_conntrack_helper"] = "1\n"
	if all := look(loaded); len(all) != 0 {
		t.Errorf("assigned by themselves: %+v", all)
	}
	delete(loaded, sysctls+"nf_conntrack_helper")
	for _, f := range all {
		ns.Must("sh", "-c", f.Fix)
	}
	all = look(loaded)
	wantFinding(t, all, "ok", "x", "2 helpers are assigned")
	wantNone(t, all, "x")
}
