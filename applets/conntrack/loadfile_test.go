package conntrack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// saveLines are lines as -o save writes them, of every protocol.
var saveLines = []string{
	"-A -t 431997 -u SEEN_REPLY,ASSURED -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p tcp --sport 34746 --dport 21 --reply-port-src 21 --reply-port-dst 34746 --state ESTABLISHED",
	"-A -t 499 -u SEEN_REPLY -s 192.0.2.1 -d 198.51.100.2 -g 203.0.113.3 -q 192.0.2.1 -p tcp --sport 10 --dport 20 --reply-port-src 80 --reply-port-dst 10 --state SYN_SENT2",
	"-A -t 8 -u UNSET --reply-zone 4 -s 192.0.2.1 -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.1 -p 203",
	"-A -t 999 -u UNSET -w 5 -s 192.0.2.1 -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.1 -p gre --srckey 16 --dstkey 77 --reply-key-src 77 --reply-key-dst 16",
	"-A -t 30 -u SEEN_REPLY -s 2001:db8::1 -d 2001:db8::2 -r 2001:db8::2 -q 2001:db8::1 -p udp --sport 5555 --dport 53 --reply-port-src 53 --reply-port-dst 5555",
	"-A -t 30 -u UNSET -s 2001:db8::1 -d 2001:db8::2 -r 2001:db8::2 -q 2001:db8::1 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 5",
	"-A -t 30 -s 192.0.2.1 -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.1 -p sctp --sport 1 --dport 2 --reply-port-src 2 --reply-port-dst 1 --state ESTABLISHED --orig-vtag 7 --reply-vtag 9",
	"-A -t 30 -s 192.0.2.1 -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.1 -p dccp --sport 1 --dport 2 --reply-port-src 2 --reply-port-dst 1 --state OPEN --role client",
}

func noJSON([]byte, *Command) error { return errors.New("no JSON here") }

// load reads text as a load file and returns what Each did: "line:op" for each
// command, and the error.
func load(t testing.TB, text string) ([]string, error) {
	t.Helper()
	l, err := OpenLoadFile("-", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, _ := testParser(t)
	var done []string
	err = l.Each(p, "conntrack", noJSON, func(line int, c *Command) error {
		done = append(done, fmt.Sprint(line, ":", commandName(c)))
		return nil
	})
	return done, err
}

func TestLoadFileLines(t *testing.T) {
	done, err := load(t, "# comment\n\n \t \n-D -p udp\n  conntrack -F\n# x\n-U -m 1\n"+saveLines[0]+"\n"+
		"-I -s 192.0.2.1 -d 192.0.2.2 -p 200 -t 5\n   ")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(done, " "), "4:-D 5:-F 7:-U 8:-A 9:-I"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestLoadFileErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"-L", "-:1: Cannot use command `-L' with --load-file"},
		{"-G -s 192.0.2.1 -d 192.0.2.2 -p 200", "-:1: Cannot use command `-G' with --load-file"},
		{"-E", "-:1: Cannot use command `-E' with --load-file"},
		{"-V", "-:1: Cannot use command `-V' with --load-file"},
		{"-h", "-:1: Cannot use command `-h' with --load-file"},
		{"-C", "-:1: Cannot use command `-C' with --load-file"},
		{"-S", "-:1: Cannot use command `-S' with --load-file"},
		{"-L expect", "-:1: Cannot use command `-L expect' with --load-file"},
		{"-F expect", "-:1: Cannot use command `-F expect' with --load-file"},
		{"-C expect", "-:1: Cannot use command `-C expect' with --load-file"},
		{"-L dying", "-:1: Cannot use command `-L' with --load-file"},
		{"\n\nfoo", "-:3: Cannot use command `unknown' with --load-file"},
		{"-D\n-D -p foo\n", "-:2: `foo' unsupported protocol"},
		{"-D -q", "-:1: option `-q' requires an argument"},
		{"-Dx", "-:1: unknown option `-Dx'"},
		{"-Dxo", "-:1: unknown option `conntrack'"},
		{"-R x", "-:1: unknown option `-R'"},
		{"-D -p udp # x -q", "-:1: option `-q' requires an argument"},
		{"-D conntrack udp", "-:1: unexpected word `udp'"},
		{"-D conntrack conntrack", "-:1: unexpected word `conntrack'"},
		{"-D -p udp # -p", "-:1: option `-p' requires an argument"},
		{"-D -f ipv4 udp # of", "-:1: unexpected word `udp'"},
		{"-D -p udp \"", "-:1: unexpected word `'"},
		{"-D -p \"\"", "-:1: `' unsupported protocol"},
		{"-D -p \"ud\"\"p\"", "-:1: `ud' unsupported protocol"},
		{"-D -p \"u\\\\dp\"", "-:1: `u\\dp' unsupported protocol"},
		{"-D -p 'udp'", "-:1: `'udp'' unsupported protocol"},
		{"-D -p udp\r\n", "-:1: `udp\r' unsupported protocol"},
		{"-D -p " + strings.Repeat("a", 1024), "-:1: Parameter too long!"},
		{"-D " + strings.Repeat("- ", 253), "-:1: too many arguments"},
		{"-D\n# " + strings.Repeat("a", maxLoadLine), "-:2: Line too long"},
		{"-D\n {\"x\": 1}", "-:2: no JSON here"},
	} {
		_, err := load(t, c.text)
		var bad *UsageError
		if !errors.As(err, &bad) || bad.Error() != c.want || bad.Status != exitUsage {
			t.Errorf("%.40q: %v, want %s", c.text, err, c.want)
		}
	}
}

func TestLoadFileAccepts(t *testing.T) {
	for _, text := range []string{
		"", "\n", "-D -p u\"dp\"", "-D -p \"u\\dp\"", "-D -p \"udp", "-D -p udp # " + strings.Repeat("- ", 249),
		"\t-D", "conntrack -D -p udp", "-D -p udp #", "-D -p udp # of customer 5", "-D\n  # x", strings.Join(saveLines, "\n"),
	} {
		if _, err := load(t, text); err != nil {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// TestLoadFileParity has Debian's conntrack read the lines on which we agree.
// Ours names file and line besides.
func TestLoadFileParity(t *testing.T) {
	ns := netnstest.New(t, "load")
	for _, line := range []string{
		"-D -p \"ud\"\"p\"", "-D -p u\"dp\"", "-D -p \"\"", "-D -p \"u\\\\dp\"", "-D -p \"u\\dp\"", "-D -p 'udp'",
		"-L", "-G -s 192.0.2.1 -d 192.0.2.2 -p 200", "-E", "-V", "-h", "-C", "-S", "-L expect", "-F expect",
		"-C expect", "-S expect", "-E expect", "-L dying", "foo", "# x", "  # x", " \t", "conntrack -D -p foo",
		"-D -p udp # x -q", "-R x", "-A expect", "-F -s 192.0.2.1", "-D -p udp\r",
		"-D -p " + strings.Repeat("a", 1023), "-D -p " + strings.Repeat("a", 1024),
		"-D -p udp # " + strings.Repeat("- ", 249), "-D " + strings.Repeat("- ", 253), "-S\n-D foo", "-D -p udp # of customer 5",
	} {
		file := filepath.Join(t.TempDir(), "load")
		if err := os.WriteFile(file, []byte(line+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		theirs := ns.Peer("", "conntrack", "-R", file)
		l, err := OpenLoadFile(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := testParser(t)
		err = l.Each(p, "conntrack", noJSON, func(int, *Command) error { return nil })
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		var got string
		var bad *UsageError
		if errors.As(err, &bad) {
			bad.File = ""
			got = strings.Replace(string(bad.AppendMessage(nil)), messagePrefix, peerPrefix(), 1)
		} else if err != nil {
			t.Errorf("%.40q: %v", line, err)
		}
		want := theirs.Stderr
		if line == "-S\n-D foo" { // they parse all lines before they look at commands
			want = peerPrefix() + "Cannot use command `-S' with --load-file\n" + tryHelp
		}
		// For a word without an option they read memory that they have not set: one answer of thirty
		// is another one.
		for tries := 0; line == "foo" && got != want && tries < 10; tries++ {
			want = ns.Peer("", "conntrack", "-R", file).Stderr
		}
		if got != want || got != "" && theirs.Code != exitUsage {
			t.Errorf("%.40q:\ngot  %swant %s", line, got, want)
		}
	}
}

// TestLoadFileSources reads the same text twice from every kind of input.
func TestLoadFileSources(t *testing.T) {
	text := strings.Repeat(strings.Join(saveLines, "\n")+"\n", 2*spoolInMemory/1200)
	if len(text) <= spoolInMemory {
		t.Fatal("the text does not need a spool file")
	}
	path := filepath.Join(t.TempDir(), "load")
	if err := os.WriteFile(path, []byte("-D\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	count := func(name string, stdin io.Reader, want int) {
		t.Helper()
		l, err := OpenLoadFile(name, stdin)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 2 {
			p, _ := testParser(t)
			n := 0
			if err := l.Each(p, "conntrack", noJSON, func(int, *Command) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
			if n != want {
				t.Errorf("%d commands, want %d", n, want)
			}
		}
	}
	lines := strings.Count(text, "\n")
	count(path, nil, lines+1)
	count("-", strings.NewReader(text), lines)

	// A file as standard input is read from its current offset.
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(3, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	count("-", f, lines)

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		defer w.Close()
		_, _ = io.WriteString(w, text)
	}()
	count("-", r, lines)

	// Without a directory for temporary files the spool is in memory.
	t.Setenv("TMPDIR", filepath.Join(path, "none"))
	count("-", strings.NewReader(text), lines)
}

func TestLoadFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{dir, filepath.Join(dir, "none")} {
		_, err := OpenLoadFile(name, nil)
		var bad *UsageError
		if !errors.As(err, &bad) || bad.Text != "Failed to open file "+name+" for reading" || bad.Status != exitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	_, err := OpenLoadFile("-", io.MultiReader(strings.NewReader("-D\n"), errorReader{broken}))
	if !errors.Is(err, broken) || err.Error() != "read -: broken" {
		t.Errorf("%v", err)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestLoadFileStopsAtTheCallersError(t *testing.T) {
	l, err := OpenLoadFile("-", strings.NewReader("-D\n-F\n"))
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	p, _ := testParser(t)
	if err := l.Each(p, "conntrack", noJSON, func(int, *Command) error { return stop }); err != stop {
		t.Errorf("%v", err)
	}
}

func TestLoadFileAllocatesNothingPerLine(t *testing.T) {
	text := []byte(strings.Join(saveLines, "\n"))
	lines := bytes.Split(text, []byte("\n"))
	p, _ := testParser(t)
	var words wordSplitter
	var cmd Command
	n := testing.AllocsPerRun(100, func() {
		for _, line := range lines {
			if err := p.parseLine(&words, "conntrack", line, &cmd); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for %d lines", n, len(lines))
	}
}

func BenchmarkLoadLine(b *testing.B) {
	p := NewParser(io.Discard, false)
	var words wordSplitter
	var cmd Command
	line := []byte(saveLines[0])
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if err := p.parseLine(&words, "conntrack", line, &cmd); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoadFile reads 10,000 lines of a regular file.
func BenchmarkLoadFile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "load")
	if err := os.WriteFile(path, bytes.Repeat([]byte(saveLines[0]+"\n"), 10000), 0o644); err != nil {
		b.Fatal(err)
	}
	l, err := OpenLoadFile(path, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	p := NewParser(io.Discard, false)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Each(p, "conntrack", noJSON, func(int, *Command) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
