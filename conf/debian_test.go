//go:build root

package conf

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"

	"github.com/google/go-cmp/cmp"
)

// peerLine is a log line of conntrackd on the console.
var peerLine = regexp.MustCompile(`(?m)^\[[^]]*\] \(pid=\d+\) \[(\w+)\] (.*)$`)

// TestSameAsDebian runs Debian's conntrackd over the files of the other tests.
// Both must accept the same files and give the same warnings, except for the differences
// listed below.
func TestSameAsDebian(t *testing.T) {
	var files []string
	for _, tt := range clauseTests {
		files = append(files, tt.src)
	}
	for _, tt := range errorTests {
		files = append(files, tt.src)
	}
	for _, tt := range warningTests {
		files = append(files, tt.src)
	}
	d := newDebian(t)
	excused := make(map[string]bool)
	for _, src := range files {
		accepted, verdict, theirs := d.parse(src)
		_, ours, err := Parse("conntrackd.conf", []byte(src))

		if why := differs(src); why != "" {
			excused[why] = true
			if accepted && err == nil && slices.Equal(texts(ours), theirs) {
				t.Errorf("%q: no difference, but one is listed: %s", src, why)
			}
			continue
		}
		if accepted != (err == nil) {
			t.Errorf("%q:\nours: %v\ntheirs: %s", src, err, verdict)
			continue
		}
		if accepted {
			if diff := cmp.Diff(theirs, texts(ours)); diff != "" {
				t.Errorf("%q: warnings (-theirs +ours):\n%s", src, diff)
			}
		}
	}
	for _, d := range differences {
		if !excused[d.why] {
			t.Errorf("no file for the difference: %s", d.why)
		}
	}
}

// TestRandomSameAsDebian does the same with files of random clauses, and with copies in
// which a word was removed, doubled or replaced by another word of the file.
func TestRandomSameAsDebian(t *testing.T) {
	d := newDebian(t)
	refused := 0
	// Clauses that only ctbox has are left out.
	common := strings.NewReplacer("gre 99", "gre", "Interface General", "Interface sync1", "Interface fe0", "Interface sync2")
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		words := strings.Fields(common.Replace(randomFile(r, false)))
		if i := r.IntN(len(words) + 1); i < len(words) {
			switch r.IntN(4) {
			case 0:
				words = slices.Delete(words, i, i+1)
			case 1:
				words = slices.Insert(words, i, words[i])
			case 2:
				words[i] = words[r.IntN(len(words))]
			}
		}
		src := strings.Join(words, " ")
		accepted, verdict, _ := d.parse(src)
		_, _, err := Parse("conntrackd.conf", []byte(src))
		if accepted != (err == nil) && differs(src) == "" {
			t.Errorf("seed %d: %s\nours: %v\ntheirs: %s", seed, src, err, verdict)
		}
		if err != nil {
			refused++
		}
	}
	if refused < 10 || refused > 140 {
		t.Errorf("%d of 150 files are refused: too uniform to say much", refused)
	}
}

// debian is Debian's conntrackd as a parser.
type debian struct {
	t    *testing.T
	ns   *netnstest.NS
	file string
}

func newDebian(t *testing.T) *debian {
	return &debian{t, netnstest.New(t, "conf"), filepath.Join(t.TempDir(), "conntrackd.conf")}
}

// parse has conntrackd read the file for a control command. If it accepts the file, it
// fails to connect. parse returns the verdict, the last message and the warnings.
func (d *debian) parse(src string) (accepted bool, verdict string, warnings []string) {
	d.t.Helper()
	if err := os.WriteFile(d.file, []byte(src), 0o600); err != nil {
		d.t.Fatal(err)
	}
	r := d.ns.Peer("", "conntrackd", "-C", d.file, "-s")
	lines := peerLine.FindAllStringSubmatch(r.Stdout+r.Stderr, -1)
	if len(lines) == 0 || r.Code != 1 {
		d.t.Fatalf("%q: unexpected answer %+v", src, r)
	}
	verdict = lines[len(lines)-1][2]
	return strings.HasPrefix(verdict, "can't connect"), verdict, peerTexts(lines)
}

// texts returns the warnings of ctbox that every command shows, sorted.
func texts(warnings []Warning) []string {
	texts := []string{}
	for _, w := range warnings {
		if w.When == Always {
			texts = append(texts, strings.TrimSpace(w.Text))
		}
	}
	slices.Sort(texts)
	return texts
}

// peerTexts returns Debian's warnings, sorted, without those about the host's interfaces,
// which are findings of Check in ctbox.
func peerTexts(lines [][]string) []string {
	texts := []string{}
	for _, l := range lines {
		if l[1] == "warning" && !strings.HasSuffix(l[2], " is an invalid interface") {
			texts = append(texts, strings.TrimSpace(l[2]))
		}
	}
	slices.Sort(texts)
	return texts
}

// differences are the reasons why verdicts or warnings differ, each with a pattern of the
// files that it applies to.
var differences = []struct{ why, file string }{
	{"a comment may end the file without a newline", `^# a comment without`},
	{"a path ends at a tab, and at the braces at its end", `Path /x(}|\t)`},
	{"protocols may be numbers", `GRE 255 0`},
	{"persistent may be written in lower case", `Mode persistent `},
	{"names may look like hexadecimal numbers or like keywords that start no clause", `Interface (a|fe0|TCP) |RAS ad |Syslog From `},
	{"a number that does not fit is an error, and not another number",
		`HashSize (2147483648|9999)|CommitTimeout 9999|Port 65536|QueueNum 65536|ExpectMax 256|/99999999999`},
	{"a boolean has no bar in it", `Systemd \|n`},
	{"a path has no null byte in it", `/x\x00`},
	{"links without clauses count as links", `UDP { } UDP { } UDP`},
	{"what was set for a mode that is not used is ignored", `Mode NOTRACK { Disable.*Mode (FTFW|ALARM)|Mode FTFW.*Mode NOTRACK`},
	{"some clauses are ours", ""}, // see differs
	{"the IPv6 network ::/0 is no repetition of anything", `::/0`},
}

// theirs is the grammar without the clauses that only ctbox has.
var theirs = withoutOurs(&grammar)

func withoutOurs(b *block) *block {
	trimmed := *b
	trimmed.clauses = nil
	for _, c := range b.clauses {
		if c.ours {
			continue
		}
		switch v := c.value.(type) {
		case *group:
			g := *v
			g.block = withoutOurs(v.block)
			c.value = &g
		case *filter:
			c.value = &filter{withoutOurs(v.block)}
		}
		trimmed.clauses = append(trimmed.clauses, c)
	}
	return &trimmed
}

// differs returns the reason why Debian's conntrackd reads the file differently, or "".
func differs(src string) string {
	if _, _, err := Parse("x", []byte(src)); err == nil {
		if _, _, err := new(Parser).parse(theirs, "x", []byte(src)); err != nil {
			return "some clauses are ours"
		}
	}
	for _, d := range differences {
		if d.file != "" && regexp.MustCompile(d.file).MatchString(src) {
			return d.why
		}
	}
	return ""
}

// TestDebianExamples reads the example files of Debian's packages.
func TestDebianExamples(t *testing.T) {
	const docs = "/usr/share/doc/conntrackd/examples/"
	sync := func(mode Mode) *Config {
		c := Default()
		newLink(Multicast, func(l *Link) {
			l.Address, l.Port, l.Local, l.Interface = addr("225.0.0.50"), 3780, addr("192.168.100.100"), "eth2"
			l.SndSocketBuffer, l.RcvSocketBuffer = 1249280, 1249280
		})(c)
		c.Sync.Mode = mode
		g := &c.General
		g.HashSize, g.HashLimit, g.LogFile = 32768, 131072, "/var/log/conntrackd.log"
		g.LockFile, g.UNIXPath = "/var/lock/conntrack.lock", "/var/run/conntrackd.ctl"
		g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth = 2097152, 8388608
		g.Filter.Protocol.Action, g.Filter.Protocol.Protocols = Accept, protocols(6, 132, 33)
		g.Filter.Address.Action = Ignore
		for _, host := range []string{"127.0.0.1", "192.168.0.100", "192.168.1.100", "192.168.0.1", "192.168.1.1", "192.168.100.100"} {
			a := addr(host)
			prefix, _ := a.Prefix(32)
			g.Filter.Address.Prefixes = append(g.Filter.Address.Prefixes, prefix)
		}
		return c
	}
	alarm := sync(ModeALARM)
	alarm.Sync.RefreshTime = 15 * time.Second

	stats := Default()
	newStats(func(s *Stats) { s.LogFile = "/var/log/conntrackd-stats.log" })(stats)
	g := &stats.General
	g.HashSize, g.HashLimit, g.LockFile, g.UNIXPath = 8192, 65535, "/var/lock/conntrack.lock", "/var/run/conntrackd.ctl"
	g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth = 262142, 655355
	g.Filter.Protocol.Action, g.Filter.Protocol.Protocols = Accept, protocols(6)
	g.Filter.Address.Action = Ignore
	loopback, _ := addr("127.0.0.1").Prefix(32)
	g.Filter.Address.Prefixes = append(g.Filter.Address.Prefixes, loopback)

	etc := Default()
	newStats(func(s *Stats) { s.LogFile = "/var/log/conntrackd-stats.log" })(etc)
	g = &etc.General
	g.HashSize, g.HashLimit, g.Syslog = 8192, 65535, FacilityDaemon
	g.LockFile, g.UNIXPath = "/var/lock/conntrackd.lock", "/var/run/conntrackd.sock"
	g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth = 262142, 655355

	for name, want := range map[string]*Config{
		docs + "sync/ftfw/conntrackd.conf":    sync(ModeFTFW),
		docs + "sync/alarm/conntrackd.conf":   alarm,
		docs + "sync/notrack/conntrackd.conf": sync(ModeNOTRACK),
		docs + "stats/conntrackd.conf":        stats,
		"/etc/conntrackd/conntrackd.conf":     etc,
	} {
		c, _, err := Load(name)
		if err != nil {
			t.Errorf("the tests need Debian's conntrackd with its documentation: %v", err)
			continue
		}
		if diff := cmp.Diff(want, c, sameConfig); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		roundTrip(t, c)
	}
}
