//go:build vm

package vmtest

import (
	"regexp"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

var (
	nfctVersion = regexp.MustCompile(`(?m)^nfct v[0-9.]+:`)
	nfctReason  = regexp.MustCompile(`(?m)^(nfct v: netlink error: [^(\n]*) \((.*)\)$`)
)

// Creating, listing and deleting helper objects with ctbox's and Debian's nfct gives the same
// output, exit status and objects, except for the rows in docs/differences.md.
func TestNfctHelpers(t *testing.T) {
	steps := []struct {
		line   string
		reason string // the kernel's error, as ctbox prints it
		row    string // of docs/differences.md
		ours   netnstest.Result
	}{
		{line: "list helper"},
		{line: "flush helper"},
		{line: "get helper ftp", reason: "there is no user-space helper `ftp'"},
		{line: "disable helper tftp inet udp", reason: "there is no user-space helper `tftp' for inet udp"},
		{line: "add helper ftp inet tcp"},
		{line: "add helper ftp inet tcp"},
		{line: "helper add rpc inet6 udp"},
		{line: "get helper ftp"},
		{line: "get helper ftp inet tcp"},
		{line: "get helper rpc inet udp", row: "N8", ours: netnstest.Result{Code: 1,
			Stderr: "nfct v: netlink error: No such file or directory (there is no user-space helper `rpc' for inet udp)\n"}},
		{line: "get helper rpc inet6", row: "N9", ours: netnstest.Result{
			Stdout: "{\n\t.name = rpc,\n\t.queuenum = 0,\n\t.l3protonum = 10,\n\t.l4protonum = 17,\n\t.priv_data_len = 16,\n\t.status = disabled,\n};\n"}},
		{line: "list helper"},
		{line: "disable helper ftp inet tcp"},
		{line: "delete helper rpc inet tcp", reason: "there is no user-space helper `rpc' for inet tcp"},
		{line: "delete helper none", reason: "there is no user-space helper `none'"},
		{line: "delete helper rpc inet6 udp"},
		{line: "add helper rpc inet tcp"},
		{line: "add helper rpc inet6 tcp"},
		{line: "delete helper rpc"},
		{line: "list helper"},
		{line: "flush helper"},
		{line: "list helper"},
	}
	ns := netnstest.New(t, "r")
	ns.Must("/usr/sbin/nfct", "flush", "helper")
	type outcome struct {
		result netnstest.Result
		reason string
		left   string
	}
	run := func(nfct string) (all []outcome) {
		for _, step := range steps {
			r := ns.Run("", nfct, strings.Fields(step.line)...)
			r.Stdout, r.Stderr = nfctVersion.ReplaceAllString(r.Stdout, "nfct v:"), nfctVersion.ReplaceAllString(r.Stderr, "nfct v:")
			o := outcome{result: r, left: ns.Must("/usr/sbin/nfct", "list", "helper")}
			if m := nfctReason.FindStringSubmatch(r.Stderr); m != nil {
				o.reason = m[2]
			}
			all = append(all, o)
		}
		return all
	}
	theirs, ours := run("/usr/sbin/nfct"), run(applet("nfct"))
	for i, step := range steps {
		if step.row != "" {
			if ours[i].result != step.ours || theirs[i].result == step.ours {
				t.Errorf("nfct %s (%s): %+v, want %+v; theirs %+v", step.line, step.row, ours[i].result, step.ours, theirs[i].result)
			}
		} else {
			got := ours[i].result
			got.Stderr = nfctReason.ReplaceAllString(got.Stderr, "$1")
			if got != theirs[i].result || ours[i].reason != step.reason {
				t.Errorf("nfct %s: %+v (%s), theirs %+v; want reason %q", step.line, got, ours[i].reason, theirs[i].result, step.reason)
			}
		}
		if ours[i].left != theirs[i].left {
			t.Errorf("nfct %s leaves\n%s\ntheirs\n%s", step.line, ours[i].left, theirs[i].left)
		}
	}

	// An object that a rule refers to: later kernels allow its deletion.
	defer ns.Must(applet("nfct"), "flush", "helper")
	ns.Must(applet("nfct"), "add", "helper", "tns", "inet", "tcp")
	ns.NFT("table ip t { ct helper h { type \"tns\" protocol tcp; l3proto ip; }; chain c { ct helper set \"h\"; }; }")
	defer ns.NFT("flush ruleset")
	for _, command := range []string{"delete helper tns", "flush helper"} {
		want := ns.Run("", "/usr/sbin/nfct", strings.Fields(command)...)
		if want.Code == 0 {
			ns.Must(applet("nfct"), "add", "helper", "tns", "inet", "tcp")
		}
		got := ns.Run("", applet("nfct"), strings.Fields(command)...)
		left := ns.Must(applet("nfct"), "list", "helper")
		if got.Code == 0 {
			ns.Must(applet("nfct"), "add", "helper", "tns", "inet", "tcp")
		}
		if got.Code != want.Code || (left == "") != (got.Code == 0) ||
			got.Code != 0 && (!strings.Contains(got.Stderr, ": netlink error: Device or resource busy (") ||
				!strings.Contains(got.Stderr, "in use by a rule or a flow")) {
			t.Errorf("nfct %s: %+v, theirs %+v; left %q", command, got, want, left)
		}
	}
}
