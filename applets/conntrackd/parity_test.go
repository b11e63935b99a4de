package conntrackd

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctbox/applets/conntrackd/control"
	"ctbox/internal/netnstest"
)

// setups are configurations of every mode and transport.
var setups = map[string]string{
	"none":  "",
	"stats": "Stats {\n}",
	"ftfw": `Sync {
	Mode FTFW {
	}
	UDP {
		IPv4_address 192.0.2.1
		IPv4_Destination_Address 192.0.2.2
		Port 3780
		Interface sync0
	}
	UDP Default {
		IPv6_address 2001:db8::1
		IPv6_Destination_Address 2001:db8::2
		Port 3781
		Interface sync0
	}
}`,
	"alarm": `Sync {
	Mode ALARM {
	}
	Multicast {
		IPv4_address 225.0.0.50
		Group 3780
		IPv4_interface 192.0.2.1
		Interface sync0
	}
	Options {
		ExpectationSync on
	}
}`,
	"notrack": `Sync {
	Mode NOTRACK {
	}
	TCP {
		IPv4_address 192.0.2.1
		IPv4_Destination_Address 192.0.2.2
		Port 3780
		Interface sync0
	}
	Options {
		ExpectationSync on
	}
}`,
	"bypass": `Sync {
	Mode NOTRACK {
		DisableInternalCache on
		DisableExternalCache on
	}
	UDP {
		IPv4_address 192.0.2.1
		IPv4_Destination_Address 192.0.2.2
		Port 3780
		Interface sync0
	}
}`,
}

// commands are the client's commands: first those that show the daemon's state, then those that
// change it.
var commands = []string{
	"-s", "-s ct", "-s expect", "-s network", "-s cache", "-s runtime", "-s link", "-s multicast", "-s rsqueue", "-s process",
	"-s queue", "-i", "-i ct", "-i expect", "-e", "-e expect", "-i -x", "-e -x", "-i expect -x",
	"-f", "-f internal", "-f external", "-F ct", "-F expect", "-F", "-R", "-R ct", "-R expect", "-n", "-B", "-t", "-t", "-c", "-c ct",
	"-c expect", "-s", "-s runtime",
}

// differences are outputs that differ on purpose, by setup and command, with their row in
// docs/differences.md.
var differences = map[string]string{
	"bypass -i -x": "C3",
}

// added matches the text about peers that ctbox's daemon appends for these commands (C15).
var added = map[string]*regexp.Regexp{
	"-s network": regexp.MustCompile(`(?s)peers:\n\t.*$`), "-s link": heardOver, "-s multicast": heardOver,
}

var heardOver = regexp.MustCompile(`(?s)peer:\n\t.*$`)

// silence matches the line about a peer that is not heard (S32); these tests have no peer.
var silence = regexp.MustCompile(`(?m)^.*nothing has been heard from .*\n`)

func withoutSilence(lines string) string { return silence.ReplaceAllString(lines, "") }

// unlogged are the lines of a setup that only one of the daemons logs.
var unlogged = map[string]*regexp.Regexp{
	"stats": regexp.MustCompile(`flushing (caches|(internal|external) cache)`), // C4
	// Without an internal cache, a flush of it is a flush of the kernel's table and is logged as
	// one. ctbox has no child processes (C6).
	"bypass": regexp.MustCompile(`flushing kernel conntrack table$|child process|resync is unsupported`),
}

// logged stops a daemon and returns the lines that it logged on its console.
func logged(t *testing.T, setup string, p *netnstest.Process) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(masked(unstamped(t, stop(t, p)))) {
		if u := unlogged[setup]; !silence.MatchString(line) && (u == nil || !u.MatchString(strings.TrimSpace(line))) {
			lines = append(lines, line)
		}
	}
	return lines
}

// For every command in every mode, Debian's and ctbox's client and daemon give the same output and
// exit status, in all combinations of client and daemon. Both daemons log the same.
func TestCommandsAreDebians(t *testing.T) {
	for name, clauses := range setups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs, mine := newHost(t), newHost(t)
			const buffer = " NetlinkBufferSize 1000000\n NetlinkBufferSizeMaxGrowth 1000000\n" // S20
			theirDaemon := theirs.start(debian(t), theirs.configure(buffer, clauses))
			myDaemon := mine.start(ours(t), mine.configure(buffer, clauses))
			for _, h := range []*host{theirs, mine} {
				h.Must("/usr/sbin/conntrack", "-I", "-p", "tcp", "-s", "198.51.100.1", "-d", "203.0.113.1",
					"--sport", "1001", "--dport", "2002", "--state", "ESTABLISHED", "-t", "300", "-m", "5")
			}
			if clauses != "" {
				for _, h := range []*host{theirs, mine} {
					netnstest.Eventually(t, patience, "the event has arrived", func() bool {
						return strings.Contains(h.Must(debian(t), "-C", h.path("conntrackd.conf"), "-s", "runtime"),
							"events received:\t                   1\n")
					})
				}
			}
			for _, line := range commands {
				args := strings.Fields(line)
				run := func(h *host, client string) netnstest.Result {
					r := h.Run("", client, append([]string{"-C", h.path("conntrackd.conf")}, args...)...)
					r.Stderr = unstamped(t, r.Stderr)
					return r
				}
				want := run(theirs, debian(t))
				if got := run(theirs, ours(t)); !alike(want, got) {
					t.Errorf("%s: our client says of Debian's daemon (-theirs +ours):\n%s", line, cmp.Diff(want, got))
				}
				got := run(mine, ours(t))
				if theirs := run(mine, debian(t)); !alike(theirs, got) {
					t.Errorf("%s: our daemon to Debian's client and ours:\n%s", line, cmp.Diff(theirs, got))
				}
				if text := added[line]; text != nil && name != "none" && name != "stats" {
					if !text.MatchString(got.Stdout) {
						t.Errorf("%s says nothing of the peer:\n%s", line, got.Stdout)
					}
					got.Stdout = text.ReplaceAllString(got.Stdout, "")
				}
				if _, known := differences[name+" "+line]; !known && !alike(want, got) {
					t.Errorf("%s (-theirs +ours):\n%s", line, cmp.Diff(want, got))
				}
			}
			want, got := logged(t, name, theirDaemon), logged(t, name, myDaemon)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what the daemons logged (-theirs +ours):\n%s", diff)
			}
		})
	}
}

// The numbers of the caches and of the kernel's events equal Debian's, after flows that existed
// before, began and ended.
func TestNumbersAreDebians(t *testing.T) {
	for _, c := range []struct{ name, general, clauses string }{
		{"ftfw", "", setups["ftfw"]}, // no peer acknowledges the ends
		{"notrack", "", setups["notrack"]},
		{"alarm", "", setups["alarm"]},
		{"bypass", "", setups["bypass"]},
		{"stats", "", setups["stats"]},
		{"filter", " Filter {\n  Protocol Accept {\n   TCP\n  }\n }", setups["notrack"]},
		{"limit", " HashLimit 2", setups["notrack"]},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var texts [2]string
			for i, bin := range []string{debian(t), ours(t)} {
				h := newHost(t)
				h.insert("198.51.100.9", 1000)
				p := h.start(bin, h.configure(c.general+"\n NetlinkOverrunResync off\n NetlinkBufferSize 1000000\n NetlinkBufferSizeMaxGrowth 1000000", c.clauses))
				for port := 1001; port < 1004; port++ {
					h.insert("198.51.100.1", port)
				}
				h.Must("/usr/sbin/conntrack", "-U", "-f", "ipv4", "-p", "tcp", "--sport", "1001", "-s", "198.51.100.1", "-d", "203.0.113.1", "--mark", "7")
				h.Must("/usr/sbin/conntrack", "-D", "-p", "tcp", "--sport", "1002")
				h.Must("/usr/sbin/conntrack", "-I", "-p", "udp", "-s", "198.51.100.1", "-d", "203.0.113.1", "--sport", "1", "--dport", "53", "-t", "300")
				netnstest.Eventually(t, patience, "the events have arrived", func() bool {
					texts[i] = h.client("-s", "runtime")
					return strings.Contains(texts[i], "events received:\t                   6\n")
				})
				texts[i] += h.client("-s", "cache")
				h.client("-R")
				h.client("-f", "external")
				texts[i] += h.client("-s", "runtime") + h.client("-s", "cache")
				counts, _, _ := strings.Cut(h.client("-s"), "traffic processed:")
				texts[i] += counts
				stop(t, p)
			}
			if diff := cmp.Diff(texts[0], texts[1]); diff != "" {
				t.Errorf("(-theirs +ours):\n%s", diff)
			}
		})
	}
}

// alike reports whether two results are equal except for numbers.
func alike(a, b netnstest.Result) bool {
	a.Stdout, b.Stdout = masked(a.Stdout), masked(b.Stdout)
	return a == b
}

// Invalid command lines give Debian's errors.
func TestErrorsAreDebians(t *testing.T) {
	h := newHost(t)
	config := h.configure(" Nice -5", "")
	for _, c := range []struct {
		args []string
		code int // if it differs from 1.4.7's
	}{
		{args: []string{"-C", h.path("none"), "-s"}},
		{args: []string{"-C", config, "-s"}},
		{args: []string{"-C", config, "-k"}},
		{args: []string{"-s", "zzz"}},
		{args: []string{"-f", "zzz"}},
		{args: []string{"-x"}},
		{args: []string{"-s", "-x"}},
		{args: []string{"-d", "-s"}},
		{args: []string{"-h"}},
		// The exit status is 0 in 1.4.7 and 1 in 1.4.9.
		{args: []string{"-c", "foo"}, code: 1},
		{args: []string{"foo"}, code: 1},
		{args: []string{"--help"}, code: 1},
	} {
		want, got := h.Run("", debian(t), c.args...), h.Run("", ours(t), c.args...)
		if c.code != 0 && netnstest.PeerInstalled() {
			want.Code = c.code
		}
		if (want.Stdout == "") != (got.Stdout == "") || want.Code != got.Code || unstamped(t, want.Stderr) != unstamped(t, got.Stderr) {
			t.Errorf("%q (-theirs +ours):\n%s", c.args, cmp.Diff(want, got))
		}
	}
}

// No option of ctbox's own has a meaning in conntrack-tools.
func TestOwnOptionsAreUnknownToThePeer(t *testing.T) {
	h := newHost(t)
	for _, o := range append(slices.Sorted(maps.Keys(ourOptions)), control.Conditions()...) {
		if r := h.Run("", debian(t), o, "1"); !strings.Contains(strings.ToLower(r.Stderr), "unknown option: "+o) {
			t.Errorf("%s: %+v", o, r)
		}
	}
}

// The usage has all lines of conntrack-tools and further ones for ctbox's options. Its first line
// and that of -v differ from Debian's only in the version.
func TestUsageHasDebiansLines(t *testing.T) {
	h := newHost(t)
	theirs := h.Run("", debian(t), "-h").Stdout
	got := h.Run("", ours(t), "-h").Stdout
	first := func(text string) string {
		line, _, _ := strings.Cut(text, "\n")
		return line
	}
	if want := strings.Replace(first(theirs), "1.4.7", "1.4.9", 1); first(got) != want {
		t.Errorf("the usage begins %q, want %q", first(got), want)
	}
	theirVersion, _, _ := strings.Cut(h.Run("", debian(t), "-v").Stdout, ".")
	if version := first(h.Run("", ours(t), "-v").Stdout); !strings.HasPrefix(version, theirVersion+".4.9, ctbox v") {
		t.Errorf("-v begins %q, Debian's %q", version, theirVersion)
	}
	for i, line := range strings.Split(theirs, "\n") {
		if i > 1 && !strings.Contains(got, "\n"+line+"\n") { // after the version and argv[0]
			t.Errorf("%q is missing", line)
		}
	}
	if want := fmt.Sprintf("Usage: %s [commands] [options]\n", ours(t)); !strings.Contains(got, want) {
		t.Errorf("%q is missing", want)
	}
}
