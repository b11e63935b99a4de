package conntrack

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctbox/internal/gen"
	"ctbox/internal/netnstest"
)

// Scripts run Debian's conntrack and ours with the same words in namespaces
// that were set up the same, and hold that they print the same, on either
// stream, end with the same status and leave the same tables. What they print
// stands in the script, so a script can be read as a transcript; `go test -run
// TestScripts -update` writes it anew. What is normalised is in
// normalize_test.go, and nowhere else.
//
// A script's lines:
//
//	# text            a comment
//	+ WORD ...        sets both namespaces up; the words are the keys of setUps
//	< text            a line of standard input of the command above, or of the file
//	$ conntrack ...   runs both programs
//	$ conntrack ... > FILE   keeps what it prints for later commands
//	$ conntrack -E ... &     runs beside what follows ...
//	^C                ... up to here, where SIGINT ends it
//	! ID ...          the next command differs from Debian's as docs/differences.md
//	                  says under these ids; what ours prints follows
//
// and below $ and ^C what came of it:
//
//	    text          standard output, four blanks in front
//	2: text           standard error
//	= N               the exit status, if it is not 0
//	t: - text         with !, entries that since then only Debian's tables have,
//	t: + text         and that only ours have, as JSON
//
// Words are separated by blanks, and may stand in single quotes. $NAME is what
// `+ id NAME` found. Words with an = in front of conntrack are the environment.
type script struct {
	t    *testing.T
	tw   *netnstest.Twins
	path string
	out  []string // the script as it should be

	dirs      [2]string            // working directories, Debian's and ours
	ids       [2]map[string]string // of `+ id`
	etc       string               // stands for /etc after `+ labels`
	listeners [2]*netnstest.Process
	differs   []string // the ids of the ! above
	known     string   // how the tables differ, as far as was announced
	traffic   *traffic
}

func TestScripts(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "parity", "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, path)
		})
	}
}

func newScript(t *testing.T, path string) *script {
	s := &script{
		t:       t,
		tw:      netnstest.NewTwins(t, func(*netnstest.NS) {}),
		path:    path,
		dirs:    [2]string{t.TempDir(), t.TempDir()},
		ids:     [2]map[string]string{{}, {}},
		traffic: &traffic{t: t},
	}
	t.Cleanup(s.traffic.close)
	return s
}

func runScript(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t, path)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for at := 0; at < len(lines); {
		at += s.step(lines[at:], at+1)
	}
	if tables := s.tablesDiffer(); tables != "" {
		t.Errorf("%s: the tables at the end (- theirs + ours)\n%s", path, tables)
	}
	got := strings.Join(s.out, "\n") + "\n"
	if *gen.Update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// The file has the tables of 1.4.9. Beside the older peer it is enough that both agree.
	if got != string(text) && !netnstest.PeerInstalled() {
		t.Errorf("%s is not what is printed; -update writes it anew (-file +printed):\n%s", path, cmp.Diff(string(text), got))
	}
}

// ofOneVersion reports whether a difference is one from the other version of the peer
// alone, and not from the one at hand.
func ofOneVersion(id string) bool {
	const lists = "A2" // of label names: 1.4.7 reads them as ours does
	if netnstest.PeerInstalled() {
		return id == lists
	}
	return id[0] == 'V' || id == "A7"
}

// step carries out the first line and returns how many lines belong to it.
func (s *script) step(lines []string, number int) int {
	line := lines[0]
	n := 1
	var input []string
	for ; n < len(lines) && (lines[n] == "<" || strings.HasPrefix(lines[n], "< ")); n++ {
		input = append(input, strings.TrimPrefix(lines[n][1:], " ")+"\n")
	}
	kind, rest, _ := strings.Cut(line, " ")
	where := fmt.Sprintf("%s:%d: %s", s.path, number, line)
	s.out = append(s.out, lines[:n]...)
	switch kind {
	case "", "#":
		return n
	case "!":
		s.differs = slices.DeleteFunc(strings.Fields(rest), ofOneVersion)
		return n
	case "+":
		s.setUp(where, words(rest)[1:], strings.Join(input, ""))
		return n
	case "$":
		s.command(where, rest, strings.Join(input, ""))
	case "^C":
		s.interrupt(where)
	default:
		s.t.Fatalf("%s: what is this?", where)
	}
	for n < len(lines) && isResult(lines[n]) {
		n++
	}
	return n
}

// isResult reports whether a line is of those below $ and ^C.
func isResult(line string) bool {
	for _, prefix := range []string{"    ", "2: ", "= ", "t: "} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// command runs both programs, or starts them.
func (s *script) command(where, line, stdin string) {
	line, keep, _ := strings.Cut(line, " > ")
	line, beside := strings.CutSuffix(line, " &")
	argv := words(line)[1:]
	var env []string
	for len(argv) > 0 && argv[0] != "conntrack" {
		if !strings.Contains(argv[0], "=") {
			s.t.Fatalf("%s: not conntrack", where)
		}
		env, argv = append(env, argv[0]), argv[1:]
	}
	var results [2]netnstest.Result
	for i, ns := range s.each() {
		theirs, ours := s.tw.Commands(s.wrapper(), "conntrack", s.expand(i, argv[1:])...)
		cmd := theirs
		if i == 1 {
			cmd = ours
		}
		cmd.Dir = s.dirs[i]
		cmd.Env = append(cmd.Env, env...)
		if beside {
			before := ns.Subscribers()
			s.listeners[i] = ns.Launch(cmd)
			netnstest.Eventually(s.t, 10*time.Second, where, func() bool {
				return ns.Subscribers() > before || s.listeners[i].Ended()
			})
			continue
		}
		cmd.Stdin = strings.NewReader(stdin)
		results[i] = ns.Launch(cmd).Wait(30 * time.Second)
		if keep != "" {
			if err := os.WriteFile(filepath.Join(s.dirs[i], keep), []byte(results[i].Stdout), 0o644); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	if !beside {
		s.compare(where, !readsOnly(argv), normalize(argv, results[0]), normalize(argv, results[1]))
	}
}

// readsOnly reports whether a command cannot have changed a table.
func readsOnly(argv []string) bool {
	return len(argv) > 1 && len(argv[1]) > 1 && argv[1][0] == '-' && strings.IndexByte("LGCSVhE", argv[1][1]) >= 0
}

// interrupt ends the listeners when they have printed all that has happened.
func (s *script) interrupt(where string) {
	var results [2]netnstest.Result
	for i, ns := range s.each() {
		p := s.listeners[i]
		netnstest.Eventually(s.t, 10*time.Second, where, func() bool { return p.Ended() || idle(s.t, ns, p) })
		results[i] = p.Stop(syscall.SIGINT)
	}
	events := []string{"conntrack", "-E"}
	s.compare(where, false, normalize(events, results[0]), normalize(events, results[1]))
}

// idle reports whether the process waits for events and has read all of them.
func idle(t testing.TB, ns *netnstest.NS, p *netnstest.Process) bool {
	var sockets []byte
	var err error
	ns.Do(func() { sockets, err = os.ReadFile("/proc/thread-self/net/netlink") })
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sockets)) {
		// sk Eth Pid Groups Rmem …
		if f := strings.Fields(line); len(f) > 4 && f[1] == netlinkNetfilter && f[3] != "00000000" && f[4] != "0" {
			return false
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		return true // ended
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "S")
}

// compare compares the results of both programs, except for the announced differences, and
// records the expected transcript. changes reports that the command may have changed the
// tables; after other commands they are compared only at the end of the script.
func (s *script) compare(where string, changes bool, theirs, ours netnstest.Result) {
	differs := s.differs
	s.differs = nil
	same, tables := theirs == ours, ""
	if changes && !(same && ours.Code == exitUsage) {
		tables = s.tablesDiffer()
	}
	right := theirs
	switch {
	case len(differs) > 0:
		right = ours
		if same && tables == "" {
			s.t.Errorf("%s: does not differ, although marked so", where)
		}
		defer func() { s.out = append(s.out, prefixed("t: ", tables)...) }()
	case !same || tables != "":
		s.t.Errorf("%s: (- theirs + ours)\n%s%s", where, difference(transcript(theirs), transcript(ours)), tables)
	}
	s.out = append(s.out, transcript(right)...)
}

// tablesDiffer compares the tables of both namespaces, and returns how they
// differ, but for what is known from before.
func (s *script) tablesDiffer() string {
	differ := difference(s.tables(s.tw.Theirs), s.tables(s.tw.Ours))
	known := s.known
	s.known = differ
	var unknown strings.Builder
	for line := range strings.Lines(differ) {
		if !strings.Contains(known, line) {
			unknown.WriteString(line)
		}
	}
	return unknown.String()
}

// difference lists the lines that are in only one of the two.
func difference(theirs, ours []string) string {
	var all strings.Builder
	for _, line := range theirs {
		if !slices.Contains(ours, line) {
			all.WriteString("- " + line + "\n")
		}
	}
	for _, line := range ours {
		if !slices.Contains(theirs, line) {
			all.WriteString("+ " + line + "\n")
		}
	}
	if all.Len() == 0 && !slices.Equal(theirs, ours) {
		return "the order or number of lines\n"
	}
	return all.String()
}

// transcript is a result in the form of a script.
func transcript(r netnstest.Result) []string {
	lines := slices.Concat(prefixed("    ", r.Stdout), prefixed("2: ", r.Stderr))
	if r.Code != 0 {
		lines = append(lines, fmt.Sprintf("= %d", r.Code))
	}
	return lines
}

// prefixed is the lines of text behind a prefix.
func prefixed(prefix, text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, prefix+strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// tables are all flows and expectations of a namespace, as lines of JSON.
func (s *script) tables(ns *netnstest.NS) []string {
	var all []string
	for _, list := range []string{"-L -o json", "-L expect -f ipv4 -o json", "-L expect -f ipv6 -o json"} {
		r := run(s.t, ns, list)
		if r.status != 0 {
			s.t.Fatalf("%s: %+v", list, r)
		}
		all = append(all, normalizeTable(r.stdout)...)
	}
	return all
}

func (s *script) each() [2]*netnstest.NS { return [2]*netnstest.NS{s.tw.Theirs, s.tw.Ours} }

// expand puts what `+ id` found in place of $NAME.
func (s *script) expand(i int, argv []string) []string {
	argv = slices.Clone(argv)
	for _, name := range slices.Sorted(maps.Keys(s.ids[i])) {
		for n := range argv {
			argv[n] = strings.ReplaceAll(argv[n], "$"+name, s.ids[i][name])
		}
	}
	return argv
}

// wrapper gives a program that runs our label file in place of the system's.
func (s *script) wrapper() []string {
	if s.etc == "" {
		return nil
	}
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc && exec "$@"`, s.etc}
}

// setUps are the words behind +.
var setUps = map[string]func(s *script, where string, args []string, input string){
	// conntrack ARGS: ours, in both namespaces; it must succeed.
	"conntrack": func(s *script, where string, args []string, input string) {
		for i, ns := range s.each() {
			var out, errs strings.Builder
			argv := append([]string{"conntrack"}, s.expand(i, args)...)
			status := -1
			ns.Do(func() { status = Run(s.t.Context(), argv, strings.NewReader(input), &out, &errs) })
			if status != 0 {
				s.t.Fatalf("%s: status %d\n%s%s", where, status, out.String(), errs.String())
			}
		}
	},
	// restore: flows as `-o json` writes them, which can be had in no other way.
	"restore": func(s *script, _ string, _ []string, input string) {
		for _, ns := range s.each() {
			if r := runTo(s.t, ns, "-R -", input, nil); r.status != 0 {
				s.t.Fatalf("restore: %+v", r)
			}
		}
	},
	// reset: empties all tables.
	"reset": func(s *script, _ string, _ []string, _ string) { s.reset() },
	// addresses: the namespaces have those of the documentation themselves, so
	// that they talk over the loopback interface. How long a TCP flow lives does
	// not depend on when the last data is acknowledged, and others outlive a slow
	// run.
	"addresses": func(s *script, _ string, _ []string, _ string) {
		s.tw.Each(func(ns *netnstest.NS) {
			for _, addr := range []string{"192.0.2.1/32", "192.0.2.2/32", "198.51.100.1/32", "2001:db8::1/128", "2001:db8::2/128"} {
				// Without nodad an IPv6 address of lo, too, is tentative for a moment.
				ns.IP("addr", "add", addr, "dev", "lo", "nodad")
			}
			ns.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_unacknowledged", "432000")
			for _, name := range []string{"udp_timeout", "icmp_timeout", "icmpv6_timeout"} {
				ns.Sysctl("net.netfilter.nf_conntrack_"+name, "100")
			}
		})
	},
	// track: every connection is tracked.
	"track": func(s *script, _ string, _ []string, _ string) { s.tw.Each((*netnstest.NS).Track) },
	// nft RULE: a line of nft(8).
	"nft": func(s *script, _ string, args []string, _ string) {
		s.tw.Each(func(ns *netnstest.NS) { ns.NFT(strings.Join(args, " ")) })
	},
	"sysctl": func(s *script, _ string, args []string, _ string) {
		s.tw.Each(func(ns *netnstest.NS) { ns.Sysctl(args[0], args[1]) })
	},
	// labels: there is a label file, and both programs take its labels.
	"labels": func(s *script, _ string, _ []string, input string) {
		s.tw.Each(func(ns *netnstest.NS) {
			ns.NFT("table inet labels { chain c { type filter hook output priority 0; ct label set 1; }; }")
		})
		s.etc = etcWith(s.t, input)
	},
	// file NAME: the lines below are in a file.
	"file": func(s *script, _ string, args []string, input string) {
		for _, dir := range s.dirs {
			if err := os.WriteFile(filepath.Join(dir, args[0]), []byte(input), 0o644); err != nil {
				s.t.Fatal(err)
			}
		}
	},
	// swap NAME: each gets the file that the other has written.
	"swap": func(s *script, where string, args []string, _ string) {
		a, b := filepath.Join(s.dirs[0], args[0]), filepath.Join(s.dirs[1], args[0])
		spare := a + ".swap"
		for _, move := range [][2]string{{a, spare}, {b, a}, {spare, b}} {
			if err := os.Rename(move[0], move[1]); err != nil {
				s.t.Fatalf("%s: %v", where, err)
			}
		}
	},
	// id NAME ARGS: the id of the one flow that -L ARGS lists.
	"id": func(s *script, where string, args []string, _ string) {
		for i, ns := range s.each() {
			out := ns.Must("/usr/sbin/conntrack", append([]string{"-L", "-o", "id"}, args[1:]...)...)
			found := regexp.MustCompile(`(?m) id=(\d+)$`).FindAllStringSubmatch(out, -1)
			if len(found) != 1 {
				s.t.Fatalf("%s: %s", where, out)
			}
			s.ids[i][args[0]] = found[0][1]
		}
	},
	"tcp":  (*script).open,
	"nat":  (*script).open,
	"udp":  (*script).open,
	"lost": (*script).open,
	"icmp": (*script).open,
	"ftp":  (*script).open,
	// close: ends the connections, and forgets their flows with all others.
	"close": func(s *script, _ string, _ []string, _ string) {
		s.traffic.close()
		s.reset()
	},
}

func (s *script) reset() {
	s.tw.Each(func(ns *netnstest.NS) {
		ns.Must("/usr/sbin/conntrack", "-F")
		ns.Must("/usr/sbin/conntrack", "-F", "expect")
	})
	s.known = ""
}

func (s *script) setUp(where string, argv []string, input string) {
	if len(argv) == 0 || setUps[argv[0]] == nil {
		s.t.Fatalf("%s: cannot be set up", where)
	}
	setUps[argv[0]](s, where, argv[1:], input)
}

// etcWith makes a directory with what conntrack reads of /etc, and a label file.
func etcWith(t testing.TB, labels string) string {
	dir := t.TempDir()
	write := func(name string, text []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"protocols", "nsswitch.conf", "localtime", "ld.so.cache"} {
		if text, err := os.ReadFile(filepath.Join("/etc", name)); err == nil {
			write(name, text)
		}
	}
	write(DefaultLabelFile[len("/etc/"):], []byte(labels))
	return dir
}
