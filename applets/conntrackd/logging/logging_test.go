package logging

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The lines are those that conntrackd 1.4.7 writes.
func TestLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	var out, err bytes.Buffer
	l := New(&out, &err)
	if err := l.Open(Destinations{File: name}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := time.Date(2026, 11, 3, 8, 40, 1, 0, time.Local)
	say := func(level slog.Level, text string, attrs ...slog.Attr) {
		r := slog.NewRecord(at, level, text, 0)
		r.AddAttrs(attrs...)
		l.Handle(context.Background(), r)
	}
	say(slog.LevelInfo, "configuring helper")
	say(daemonlog.LevelNotice, "initialization completed\n")
	say(slog.LevelWarn, "two\nlines")
	say(slog.LevelError, "commit-create: File exists", slog.String(daemonlog.EntryKey, "tcp      6 src=192.0.2.1"))
	say(slog.LevelError, "other", slog.String("n", "5"))
	l.Flush()
	head := fmt.Sprintf("[Tue Nov  3 08:40:01 2026] (pid=%d) ", os.Getpid())
	wantOut := head + "[info] configuring helper\n" + head + "[notice] initialization completed\n"
	wantErr := head + "[warning] two lines\n" + head + "[ERROR] commit-create: File exists\n" + head + "[ERROR] other n=5\n"
	if out.String() != wantOut || err.String() != wantErr {
		t.Errorf("console has\n%s%s", &out, &err)
	}
	wantFile := wantOut + strings.Replace(wantErr, "exists\n", "exists\nTue Nov  3 08:40:01 2026\ttcp      6 src=192.0.2.1\n", 1)
	if got := read(t, name); got != wantFile {
		t.Errorf("file has\n%s, want\n%s", got, wantFile)
	}
	if info, _ := os.Stat(name); info.Mode() != 0o600 {
		t.Errorf("file has mode %v", info.Mode())
	}
	if slog.New(l).Enabled(context.Background(), slog.LevelDebug) {
		t.Error("debug messages are logged")
	}
}

func TestConsoleCloses(t *testing.T) {
	var out, err bytes.Buffer
	l := New(&out, &err)
	log := slog.New(l)
	l.Quiet()
	log.Info("quiet")
	log.Error("loud")
	l.CloseConsole()
	log.Error("gone")
	if out.Len() > 0 || strings.Count(err.String(), "\n") != 1 || !strings.Contains(err.String(), "loud") {
		t.Errorf("console has %q and %q", &out, &err)
	}
}

// sayMany logs n lines, which must not wait for any destination.
func sayMany(t *testing.T, l *Log, n int, text string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			slog.New(l).Warn(text + strconv.Itoa(i))
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the log waits for a destination")
	}
}

// long is a line of which the buffers hold a few hundred.
var long = strings.Repeat("x", 1000) + " "

// A console whose reader does not read does not delay the daemon. Later it gets the number of
// lines that were lost.
func TestConsoleThatHangs(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil { // Fd makes it blocking, like a console
		t.Fatal(err)
	}
	l := New(w, w)
	if err := l.Open(Destinations{}); err != nil {
		t.Fatal(err)
	}
	sayMany(t, l, 1000, long)
	lines := bufio.NewReader(r)
	shown, lost := 0, 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, long) {
			shown++
			continue
		}
		// A console that accepts lines in between gets more than one count.
		var n int
		_, text, _ := strings.Cut(line, "[warning] ")
		if _, err := fmt.Sscanf(text, "%d lines were lost: the console could not be written\n", &n); err != nil || shown == 0 {
			t.Fatalf("%d lines were shown, then %q", shown, line)
		}
		if lost += n; shown+lost == 1000 {
			break
		}
	}
	slog.New(l).Warn("the reader is awake")
	if line, err := lines.ReadString('\n'); !strings.HasSuffix(line, "the reader is awake\n") {
		t.Errorf("then %q (%v)", line, err)
	}
	l.Close()
}

// A disk that blocks delays neither the daemon nor its other destinations. Later the file gets
// the number of lost lines.
func TestDiskThatHangs(t *testing.T) {
	dir, freeze, thaw := netnstest.HangingDisk(t)
	name := filepath.Join(dir, "log")
	var console bytes.Buffer
	var mu sync.Mutex
	l := New(nil, locked{&mu, &console})
	if err := l.Open(Destinations{File: name}); err != nil {
		t.Fatal(err)
	}
	slog.New(l).Warn("before")
	l.Flush()
	freeze()
	const n = 1000
	for i := range 10 {
		sayMany(t, l, n/10, long+strconv.Itoa(i)) // the console keeps up
		l.console.flush(time.Minute)
	}
	mu.Lock()
	text := console.String()
	mu.Unlock()
	if got := strings.Count(text, long); got != n {
		t.Errorf("the console has %d lines of %d", got, n)
	}
	if strings.Count(text, "[ERROR] can't write to the logfile, lines are lost\n") != 1 {
		t.Error("the console does not say that the logfile loses lines")
	}
	thaw()
	l.Flush()
	slog.New(l).Warn("after")
	l.Close()
	text = read(t, name)
	got := strings.Count(text, long)
	want := fmt.Sprintf(") [warning] %d lines were lost: the log could not be written\n", n-got)
	if got == 0 || got == n || !strings.Contains(text, want) || !strings.HasSuffix(text, "after\n") {
		t.Errorf("%d lines are in the file; the end is %q", got, text[max(0, len(text)-300):])
	}
}

// A log that cannot be written does not keep the daemon from ending, and Reopen replaces it.
func TestHungLogEndsAndReopens(t *testing.T) {
	dir, freeze, thaw := netnstest.HangingDisk(t)
	moved := filepath.Join(dir, "log")
	l := New(nil, nil)
	if err := l.Open(Destinations{File: moved}); err != nil {
		t.Fatal(err)
	}
	slog.New(l).Warn("one")
	l.Flush()
	old := l.file
	freeze()
	slog.New(l).Warn("two")
	other := filepath.Join(t.TempDir(), "other")
	old.name = other // the name now refers to a working disk
	l.Reopen()
	slog.New(l).Warn("three")
	l.Flush()
	if text := read(t, other); !strings.HasSuffix(text, "three\n") {
		t.Errorf("the new file has %q", text)
	}
	l.Close()

	hung := New(nil, nil)
	thaw()
	if err := hung.Open(Destinations{File: moved}); err != nil {
		t.Fatal(err)
	}
	file := hung.file
	freeze()
	slog.New(hung).Warn("four")
	hung.Close() // returns
	thaw()
	<-file.done
	<-old.done
	if text := read(t, moved); strings.Count(text, "\n") != 3 || !strings.HasSuffix(text, "four\n") {
		t.Errorf("the old file has %q", text)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "log")
	l := New(nil, nil)
	if err := l.Open(Destinations{File: name}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(l)
	log.Info("one")
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	log.Info("two")
	l.Reopen()
	log.Info("three")
	// The next file can't be opened, so the log stays in the old one and logs the error.
	if err := os.Rename(name, name+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	log.Info("four")
	l.Close()
	log.Info("nobody hears this")
	levels := regexp.MustCompile(`(?m)^.*?\) `)
	// The old file is written and closed in the background.
	netnstest.Eventually(t, 10*time.Second, "the first file has two lines", func() bool {
		return levels.ReplaceAllString(read(t, name+".1"), "") == "[info] one\n[info] two\n"
	})
	want := "[info] three\n[ERROR] can't reopen logfile: " + name + ": is a directory\n[info] four\n"
	if got := levels.ReplaceAllString(read(t, name+".2"), ""); got != want {
		t.Errorf("the second file has %q", got)
	}
}

func TestOpenFailsWithTheReasonAlone(t *testing.T) {
	err := New(nil, nil).Open(Destinations{File: filepath.Join(t.TempDir(), "none", "log")})
	if err == nil || err.Error() != "no such file or directory" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// On a full disk lines are lost and counted; no partial line is written.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4096"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	// The file and its filling share the file system's one page of 4096 bytes.
	name := filepath.Join(dir, "log")
	var console bytes.Buffer
	var mu sync.Mutex
	l := New(nil, locked{&mu, &console})
	if err := l.Open(Destinations{File: name}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := slog.New(l)
	for i := range 60 {
		log.Info(fmt.Sprintf("a line of which about fifty fit on the disk, %d", i))
	}
	l.Flush()
	text := read(t, name)
	whole := strings.Count(text, "\n")
	if whole == 0 || whole == 60 || !strings.HasSuffix(text, "\n") {
		t.Fatalf("%d lines on a small disk, the end is %q", whole, text[max(0, len(text)-20):])
	}
	l.Flush() // waits for the message of the file's goroutine
	mu.Lock()
	defer mu.Unlock()
	if strings.Count(console.String(), "[ERROR] can't write to the logfile, lines are lost\n") != 1 {
		t.Errorf("the console has %q", &console)
	}
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	mu.Unlock()
	log.Info("there is room again")
	l.Flush()
	mu.Lock()
	text = read(t, name)
	want := fmt.Sprintf("[warning] %d lines were lost: the log could not be written\n", 60-whole)
	if lines := strings.SplitAfter(text, "\n"); len(lines) != 3 || !strings.HasSuffix(lines[0], want) || !strings.Contains(lines[1], "room again") {
		t.Errorf("then the log has\n%swant first %s", text, want)
	}
}

// A named pipe can be a log, with or without a reader: lines that do not fit are lost and
// counted as for a file.
func TestNamedPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(nil, nil)
	if err := l.Open(Destinations{File: name}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(l)
	log.Info("nobody reads")
	reader, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(reader)
	next := func() string {
		t.Helper()
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	if got := next(); !strings.HasSuffix(got, "nobody reads\n") {
		t.Errorf("%q", got)
	}
	// More than the buffer and the 64 KiB that a pipe holds (pipe(7)).
	const n = 1000
	sayMany(t, l, n, long)
	// Lines that did not fit into the buffer and lines that waited too long are counted separately.
	shown, lost := 0, 0
	for shown+lost < n {
		line := next()
		if strings.Contains(line, long) {
			shown++
			continue
		}
		var more int
		note := line[strings.Index(line, "[warning] "):]
		if _, err := fmt.Sscanf(note, "[warning] %d lines were lost: the log could not be written", &more); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lost += more
	}
	if shown == 0 || lost == 0 || shown+lost != n {
		t.Errorf("%d lines came and %d are said to be lost, of %d", shown, lost, n)
	}
	log.Info("there is room again")
	if got := next(); !strings.HasSuffix(got, "there is room again\n") {
		t.Errorf("then %q", got)
	}
	// The log continues after its reader has closed the pipe.
	reader.Close()
	log.Info("nobody reads again")
	l.Close()
}

// logger is a syslog daemon.
func logger(t *testing.T, path, network string) func() string {
	t.Helper()
	messages := make(chan string, 16)
	if network == "unixgram" {
		conn, err := net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 4096)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				messages <- string(buf[:n])
			}
		}()
	} else {
		l, err := net.Listen(network, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					buf := make([]byte, 4096)
					for {
						n, err := conn.Read(buf)
						if err != nil {
							return
						}
						messages <- string(buf[:n])
					}
				}()
			}
		}()
	}
	return func() string {
		select {
		case m := <-messages:
			return m
		case <-time.After(10 * time.Second):
			t.Fatal("no message")
			return ""
		}
	}
}

func TestSyslog(t *testing.T) {
	at := time.Date(2026, 11, 3, 1, 10, 37, 0, time.Local)
	want := fmt.Sprintf("<30>Nov  3 01:10:37 conntrack-tools[%d]: flow", os.Getpid())
	for network, end := range map[string]string{"unixgram": "", "unix": "\x00"} {
		path := filepath.Join(t.TempDir(), "log")
		s := NewSyslog(3 << 3)
		s.socket = path
		s.Send(severityInfo, at, []byte("nobody listens"))
		s.retry = time.Time{}
		received := logger(t, path, network)
		s.Send(severityInfo, at, []byte("flow"))
		if got := received(); got != want+end {
			t.Errorf("%s: %q, want %q", network, got, want+end)
		}
		s.Close()
	}
}

// A logger that was restarted gets the next message.
func TestSyslogRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := NewSyslog(3 << 3)
	s.socket = path
	first, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s.Send(severityError, time.Now(), []byte("one"))
	first.Close()
	os.Remove(path)
	received := logger(t, path, "unixgram")
	s.Send(severityError, time.Now(), []byte("two"))
	if got := received(); !strings.HasSuffix(got, ": two") || !strings.HasPrefix(got, "<27>") {
		t.Errorf("%q", got)
	}
}

// A logger that does not read does not stop the daemon.
func TestSyslogThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := NewSyslog(3 << 3)
	s.socket = path
	for range 30 { // more than a socket holds (net.unix.max_dgram_qlen)
		s.Send(severityInfo, time.Now(), bytes.Repeat([]byte("x"), 1000))
	}
}

// Messages that the logger did not accept are counted, and their number precedes the next one
// that it accepts.
func TestSyslogReportsLostMessages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := NewSyslog(3 << 3)
	s.socket = path
	l := New(nil, nil)
	l.Use(&Prepared{outputs{syslog: newSyslogSpool(s)}})
	for i := range 5 {
		slog.New(l).Warn("lost " + strconv.Itoa(i))
	}
	l.Flush()
	s.retry = time.Time{}
	received := logger(t, path, "unixgram")
	slog.New(l).Warn("heard")
	for _, want := range []string{": 5 lines were lost: the system's logger could not be written", ": heard"} {
		if got := received(); !strings.HasSuffix(got, want) || !strings.HasPrefix(got, "<28>") {
			t.Errorf("%q, want %q", got, want)
		}
	}
	l.Close()
}

func TestFlowLog(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "stats")
	l, err := OpenFlowLog(name, 0, slog.New(New(nil, nil)))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 1, 10, 37, 0, time.Local)
	entry := []byte("udp      17 src=192.0.2.1")
	l.Add(at, entry)
	copy(entry, "overwritten by the next flow")
	l.Close()
	if got := read(t, name); got != "Mon Nov 23 01:10:37 2026\tudp      17 src=192.0.2.1\n" {
		t.Errorf("%q", got)
	}
}

func TestFlowLogReopens(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "stats")
	l, err := OpenFlowLog(name, 0, slog.New(New(nil, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Add(time.Now(), []byte("after"))
	l.Close()
	if got := read(t, name+".1"); strings.Contains(got, "after") {
		t.Errorf("the old file has %q", got)
	}
	if got := read(t, name); !strings.HasSuffix(got, "\tafter\n") {
		t.Errorf("the new file has %q", got)
	}
}

// If more flows end than the disk takes, the log has the number of lost lines.
func TestFlowLogReportsLostLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo") // without a reader until the end
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	var mu sync.Mutex
	l, err := OpenFlowLog(name, 0, slog.New(New(nil, locked{&mu, &said})))
	if err != nil {
		t.Fatal(err)
	}
	entry := bytes.Repeat([]byte("x"), 999)
	const n = 3 * flowLogRoom / 999
	for range n {
		l.Add(time.Now(), entry)
	}
	lines := make(chan int)
	go func() {
		total := 0
		buf := make([]byte, 1<<20)
		for {
			k, err := reader.Read(buf)
			total += bytes.Count(buf[:k], []byte("\n"))
			if err != nil {
				lines <- total
				return
			}
		}
	}()
	l.Close()
	reader.SetReadDeadline(time.Now().Add(time.Second))
	got := <-lines
	mu.Lock()
	defer mu.Unlock()
	want := fmt.Sprintf("[warning] %d flows are missing in the stats log", n-got)
	if got == 0 || got == n || !strings.Contains(said.String(), want) {
		t.Errorf("%d of %d lines came, and the log says\n%s", got, n, &said)
	}
}

type locked struct {
	mu  *sync.Mutex
	buf *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func TestAddAllocations(t *testing.T) {
	s := &spool{room: flowLogRoom, pending: batch{text: make([]byte, 0, 1<<20), lines: make([]line, 0, 1<<16)}}
	s.changed.L = &s.mu
	l := &FlowLog{spool: s}
	entry := bytes.Repeat([]byte("x"), 200)
	at := time.Now()
	if n := testing.AllocsPerRun(1000, func() { l.Add(at, entry) }); n > 0 {
		t.Errorf("%v allocations a flow", n)
	}
}
