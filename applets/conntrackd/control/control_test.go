package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctbox/applets/conntrackd/report"
	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/node"
	"ctbox/sync/owner"
	readiness "ctbox/sync/ready"
	"ctbox/sync/replicate"

	"golang.org/x/sys/unix"
)

// fake is a Node that records its calls.
type fake struct {
	mu     sync.Mutex
	asked  []string
	status node.Status
	err    error
	commit commit.Result
	ready  node.Readiness
	dump   func(ctx context.Context, c node.Cache, each func(*node.Entry) error) error
	took   owner.Selector // of the last commit
}

func (f *fake) note(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
	return f.err
}

// set changes what the node answers; the server may not be done with the request before.
func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) all() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.asked, " ")
	f.asked = nil
	return s
}

var tableNames = [...]string{1: "flows", 2: "expects", 3: "both"}
var cacheNames = [...]string{1: "internal", 2: "external", 3: "both"}

func (f *fake) Status(context.Context) (node.Status, error) { return f.status, nil }
func (f *fake) Ready(_ context.Context, maxLag time.Duration) (node.Readiness, error) {
	return f.ready, f.note("ready-" + maxLag.String())
}
func (f *fake) ResendQueue(context.Context) ([]replicate.Resend, error) {
	return []replicate.Resend{{Seq: 7}}, f.note("rsqueue")
}
func (f *fake) Dump(ctx context.Context, c node.Cache, t cache.Tables, owner uint8, each func(*node.Entry) error) error {
	what := "dump-" + cacheNames[c] + "-" + tableNames[t]
	if owner != 0 {
		what += fmt.Sprintf("-of-%d", owner)
	}
	f.note(what)
	if f.dump != nil {
		return f.dump(ctx, c, each)
	}
	return f.err
}
func (f *fake) Commit(_ context.Context, t cache.Tables, s owner.Selector) (commit.Result, error) {
	err := f.note("commit-" + tableNames[t])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = s
	return f.commit, err
}
func (f *fake) NodeNumber(name string) (uint8, bool) {
	number, ok := map[string]uint8{"fw2": 2, "2": 2, "fw3": 3, "3": 3}[name]
	return number, ok
}
func (f *fake) Flush(_ context.Context, c node.Cache) error { return f.note("flush-" + cacheNames[c]) }
func (f *fake) FlushKernel(_ context.Context, t cache.Tables) error {
	return f.note("kernel-" + tableNames[t])
}
func (f *fake) Refill(_ context.Context, t cache.Tables) error {
	return f.note("refill-" + tableNames[t])
}
func (f *fake) RequestResync(context.Context) error { return f.note("resync") }
func (f *fake) Bulk(context.Context) error          { return f.note("bulk") }
func (f *fake) SchedulePurge(context.Context) error { return f.note("purge") }

// daemon is a running server with its socket.
type daemon struct {
	*Server
	node *fake
	path string
	stop context.CancelFunc
}

func serve(t *testing.T, s *Server) *daemon {
	t.Helper()
	d := &daemon{Server: s, path: filepath.Join(t.TempDir(), "ctl")}
	if s.Node == nil {
		s.Node = &fake{status: node.Status{Mode: node.ModeFTFW, ExpectationSync: true}}
	}
	d.node = s.Node.(*fake)
	if s.Log == nil {
		s.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	l, err := Listen(d.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	if s.Stop == nil {
		s.Stop = cancel
	}
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		s.Close()
	})
	return d
}

func (d *daemon) ask(t *testing.T, r Request) (string, error) {
	t.Helper()
	return d.askFor(t, r, nil)
}

func (d *daemon) askFor(t *testing.T, r Request, s *Selection) (string, error) {
	t.Helper()
	var text bytes.Buffer
	err := Ask(t.Context(), d.path, r, s, &text)
	return text.String(), err
}

// Each number calls the node method of its request.
func TestRequests(t *testing.T) {
	d := serve(t, &Server{})
	for r, want := range map[Request]string{
		0: "kernel-flows", 38: "kernel-expects", 43: "kernel-both",
		1: "refill-flows", 39: "refill-expects", 44: "refill-both",
		16: "dump-internal-flows", 17: "dump-external-flows", 24: "dump-internal-flows", 25: "dump-external-flows",
		40: "dump-internal-expects", 41: "dump-external-expects", 47: "dump-internal-expects", 48: "dump-external-expects",
		18: "commit-flows", 42: "commit-expects", 46: "commit-both",
		19: "flush-both", 33: "flush-internal", 34: "flush-external", 45: "flush-both",
		22: "bulk", 23: "resync", 26: "purge", 32: "rsqueue",
	} {
		text, err := d.ask(t, r)
		if err != nil || text != "" && r != 32 {
			t.Errorf("request %d: %q, %v", r, text, err)
		}
		if got := d.node.all(); got != want {
			t.Errorf("request %d asked for %q, want %q", r, got, want)
		}
	}
}

// Each mode answers the statistics that it has, as conntrack-tools does.
func TestStatisticsByMode(t *testing.T) {
	const (
		sync = 1 << iota
		stats
		none
	)
	modes := map[int]node.Mode{sync: node.ModeALARM, stats: node.ModeStats, none: node.ModeNone}
	for r, where := range map[Request]int{21: sync | stats, 28: sync, 29: sync | stats, 30: sync | stats | none, 31: sync, 36: sync} {
		for bit, mode := range modes {
			d := serve(t, &Server{Node: &fake{status: node.Status{Mode: mode,
				Internal: node.CacheStatus{Kind: node.CacheStored}, Status: replicate.Status{Links: []replicate.LinkStatus{{}}}}}})
			text, err := d.ask(t, r)
			if err != nil || (text != "") != (where&bit != 0) {
				t.Errorf("request %d in mode %d: %q, %v", r, mode, text, err)
			}
		}
	}
	for _, expects := range []bool{false, true} {
		d := serve(t, &Server{Node: &fake{status: node.Status{Mode: node.ModeFTFW, ExpectationSync: expects}}})
		if text, _ := d.ask(t, 37); (text != "") != expects {
			t.Errorf("request 37 with ExpectationSync %v: %q", expects, text)
		}
	}
}

func TestOutcomes(t *testing.T) {
	d := serve(t, &Server{})
	for _, c := range []struct {
		name   string
		commit commit.Result
		err    error
		want   string // with a ! in front: a remark
	}{
		{"all well", commit.Result{Flows: commit.Count{Committed: 5}}, nil, ""},
		{"some failed", commit.Result{Flows: commit.Count{Committed: 5, Failed: 2}, Expects: commit.Count{Failed: 1},
			Refused: []commit.Refusal{{Reason: "commit-create: No", Entry: "tcp 6"}, {Reason: "commit-create: Yes", Entry: "udp 17"}}}, nil,
			"!3 of 8 entries can't be committed\ncommit-create: No: tcp 6\ncommit-create: Yes: udp 17\nthe log names 1 more\n"},
		{"all failed", commit.Result{Flows: commit.Count{Failed: 1}, Refused: []commit.Refusal{{Reason: "R", Entry: "E"}}}, nil,
			"!1 of 1 entries can't be committed\nR: E\n"},
		{"events are missing", commit.Result{Flows: commit.Count{Committed: 5}, Missing: 7}, nil,
			"!7 events of the peer were lost and not yet made up\n"},
		{"both", commit.Result{Flows: commit.Count{Failed: 1}, Refused: []commit.Refusal{{Reason: "R", Entry: "E"}}, Missing: 7}, nil,
			"!1 of 1 entries can't be committed\nR: E\n7 events of the peer were lost and not yet made up\n"},
		{"nothing to commit in this mode", commit.Result{}, node.ErrUnsupported, ""},
		{"the daemon ends", commit.Result{}, context.Canceled, node.ErrStopped.Error()},
		{"it broke off", commit.Result{Flows: commit.Count{Committed: 5, Failed: 2}}, errors.New("no socket"), "no socket"},
	} {
		d.node.mu.Lock() // the server may not be done with the request before
		d.node.commit, d.node.err = c.commit, c.err
		d.node.mu.Unlock()
		_, err := d.ask(t, CommitAll|WithOutcome)
		var outcome Outcome
		var remark Remark
		got := ""
		switch {
		case errors.As(err, &outcome):
			got = string(outcome)
		case errors.As(err, &remark):
			got = "!" + string(remark)
		}
		if got != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if text, err := d.ask(t, CommitAll); text != "" || err != nil {
			t.Errorf("%s: conntrack-tools' request is answered %q, %v", c.name, text, err)
		}
	}
}

func TestUnknownRequestsAreNotAnswered(t *testing.T) {
	d := serve(t, &Server{})
	for i, r := range []Request{27, 64, 65, 66, 99, Reload, Reload | AsJSON, 1 << 31, WithOutcome | 27, AsJSON | CommitAll, WithOutcome | AsJSON | 64, WithOutcome | DumpInternalXML} {
		text, err := d.ask(t, r)
		if text != "" || r&WithOutcome != 0 != errors.Is(err, ErrUnknown) {
			t.Errorf("request %d: %q, %v", r, text, err)
		}
		if got := d.Local().Unknown; got != uint64(i+1) {
			t.Errorf("request %d: %d unknown", r, got)
		}
	}
}

func flow(i uint32) *ctnetlink.Flow {
	f := new(ctnetlink.Flow)
	f.Orig = ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP,
		Src: ctnetlink.Addr{192, 0, 2, 1}, Dst: ctnetlink.Addr{198, 51, 100, 1}, SrcPort: uint16(i), DstPort: uint16(i >> 16)}
	f.Reply = f.Orig.Inverted()
	return f
}

func TestDumpOfManyEntries(t *testing.T) {
	const n = 50_000
	d := serve(t, &Server{})
	d.node.dump = func(_ context.Context, _ node.Cache, each func(*node.Entry) error) error {
		for i := range uint32(n) {
			if err := each(&node.Entry{Flow: flow(i)}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range []Request{DumpInternal, DumpInternalXML, DumpInternal | WithOutcome | AsJSON} {
		text, err := d.ask(t, r)
		if got := strings.Count(text, "\n"); got != n || err != nil {
			t.Errorf("request %d: %d lines, %v", r, got, err)
		}
		if r&AsJSON != 0 && !json.Valid([]byte(text[:strings.IndexByte(text, '\n')])) {
			t.Errorf("no JSON: %.200s", text)
		}
	}
}

// The statistics of helpers come from the daemon, if it has helpers.
func TestHelpers(t *testing.T) {
	none := serve(t, &Server{})
	if text, err := none.ask(t, StatsHelpers); text != "" || err != nil {
		t.Errorf("without helpers: %q, %v", text, err)
	}
	d := serve(t, &Server{Helpers: func() *report.Helpers {
		return &report.Helpers{Names: []string{"ftp (inet, tcp, queue 7)"}, Packets: 5}
	}})
	if text, err := d.ask(t, StatsHelpers); !strings.Contains(text, "\n\tftp (inet, tcp, queue 7)\n") || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := d.ask(t, StatsHelpers|AsJSON); !strings.Contains(text, `"helpers":{"packets":5,`) || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := d.ask(t, Metrics); !strings.Contains(text, "\nconntrackd_helper_packets_total 5\n") || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// The client that requests a reload gets its result.
func TestReload(t *testing.T) {
	var failed error
	d := serve(t, &Server{Reload: func(context.Context) (string, error) { return "a line\n", failed }})
	if text, err := d.ask(t, Reload); text != "a line\n" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	failed = errors.New("no")
	if text, err := d.ask(t, Reload); text != "a line\n" || !errors.Is(err, Outcome("no")) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestMetricsAndJSON(t *testing.T) {
	d := serve(t, &Server{})
	if text, err := d.ask(t, Metrics); err != nil || !strings.HasPrefix(text, "# HELP conntrackd_build_info ") {
		t.Errorf("metrics: %q, %v", text, err)
	}
	for r := range statistics {
		json, ok := r.JSON()
		if !ok {
			t.Fatalf("request %d has no JSON", r)
		}
		if text, err := d.ask(t, json); err != nil || !strings.HasPrefix(text, `{"mode":"ftfw"`) || !strings.HasSuffix(text, "}\n") {
			t.Errorf("request %d: %q, %v", r, text, err)
		}
	}
	if text, err := d.ask(t, StatsResendQueue|WithOutcome|AsJSON); err != nil || text != `{"resend_queue":[{"type":"object","seq":7}]}`+"\n" {
		t.Errorf("resend queue: %q, %v", text, err)
	}
}

// The client detects an answer that was cut short by the daemon's death.
func TestCutAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		io.ReadFull(conn, make([]byte, 4))
		conn.Write([]byte("half an ans"))
		conn.Close()
	}()
	var text bytes.Buffer
	if err := Ask(t.Context(), path, Metrics, nil, &text); !errors.Is(err, ErrCut) || text.String() != "half an ans" {
		t.Errorf("%q, %v", text.String(), err)
	}
}

func TestIdleClientsAreDropped(t *testing.T) {
	d := serve(t, &Server{ReadTimeout: 50 * time.Millisecond, WriteTimeout: 50 * time.Millisecond})
	d.node.dump = func(ctx context.Context, _ node.Cache, each func(*node.Entry) error) error {
		for i := uint32(0); ctx.Err() == nil; i++ {
			if err := each(&node.Entry{Flow: flow(i)}); err != nil {
				d.node.note("dump ended")
				return err
			}
		}
		return ctx.Err()
	}
	dial := func() net.Conn {
		conn, err := net.Dial("unix", d.path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	silent, short, deaf := dial(), dial(), dial()
	short.Write([]byte{1})
	binary.Write(deaf, binary.NativeEndian, uint32(DumpInternal))
	gone := dial()
	gone.Close()
	// Others are answered meanwhile.
	if text, err := d.ask(t, StatsRuntime); err != nil || text == "" {
		t.Errorf("%q, %v", text, err)
	}
	for _, conn := range []net.Conn{silent, short} {
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("a client that sent no request: %d bytes, %v", n, err)
		}
	}
	netnstest.Eventually(t, 10*time.Second, "the dump to the client that does not read ends", func() bool {
		return strings.Contains(d.node.all(), "dump ended")
	})
	netnstest.Eventually(t, 10*time.Second, "three requests that never came are counted", func() bool {
		return d.Local().ReadFailed == 3
	})
}

// More clients than are served at the same time are all answered.
func TestManyClients(t *testing.T) {
	d := serve(t, &Server{})
	var clients sync.WaitGroup
	for range 3 * placesOfRoot.short {
		clients.Go(func() {
			if text, err := d.ask(t, StatsRuntime); err != nil || text == "" {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	clients.Wait()
	if n := d.Local().Dropped; n > 0 {
		t.Errorf("%d were dropped", n)
	}
}

// patient is a server whose timeouts exceed any test, with a long external cache and a short
// internal one.
func patient() *Server {
	return &Server{ReadTimeout: time.Hour, WriteTimeout: time.Hour, Node: &fake{
		status: node.Status{Mode: node.ModeFTFW},
		dump: func(ctx context.Context, c node.Cache, each func(*node.Entry) error) error {
			for i := uint32(0); ctx.Err() == nil && (i < 1000 || c == node.External); i++ {
				if err := each(&node.Entry{Flow: flow(i)}); err != nil {
					return err
				}
			}
			return ctx.Err()
		},
	}}
}

// crowd connects clients that send a request, or nothing, and never read.
func (d *daemon) crowd(t *testing.T, n int, request []byte) (conns []net.Conn) {
	t.Helper()
	for range n {
		conn, err := net.Dial("unix", d.path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return conns
}

// isDropped reports whether the other end of a connection is closed.
func isDropped(t *testing.T, conn net.Conn) bool {
	t.Helper()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var poll []unix.PollFd
	if err := raw.Control(func(fd uintptr) {
		poll = []unix.PollFd{{Fd: int32(fd)}}
		_, err = unix.Poll(poll, 0)
	}); err != nil {
		t.Fatal(err)
	}
	return poll[0].Revents&unix.POLLHUP != 0
}

func number(r Request) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(r)) }

// answers checks that a commit, statistics and a dump are answered.
func (d *daemon) answers(t *testing.T) {
	t.Helper()
	if _, err := d.ask(t, CommitAll|WithOutcome); err != nil {
		t.Errorf("a commit: %v", err)
	}
	if text, err := d.ask(t, StatsNetwork|WithOutcome|AsJSON); err != nil || text == "" {
		t.Errorf("statistics: %q, %v", text, err)
	}
	if text, err := d.ask(t, DumpInternal|WithOutcome|AsJSON); err != nil || strings.Count(text, "\n") != 1000 {
		t.Errorf("a dump: %d lines, %v", strings.Count(text, "\n"), err)
	}
}

// Clients that request long answers and do not read them, or request nothing, do not block
// others, not even those that request a dump.
func TestIdleClientsDoNotBlockOthers(t *testing.T) {
	crowds := map[string]func(*testing.T, *daemon){
		"100 dumps":     func(t *testing.T, d *daemon) { d.crowd(t, 100, number(DumpExternal)) },
		"300 silent":    func(t *testing.T, d *daemon) { d.crowd(t, 300, nil) },
		"300 cut short": func(t *testing.T, d *daemon) { d.crowd(t, 300, number(CommitAll)[:3]) },
		"600 dumps, 600 silent": func(t *testing.T, d *daemon) {
			d.crowd(t, 600, number(DumpExternal))
			d.crowd(t, 600, nil)
		},
	}
	for name, stand := range crowds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := serve(t, patient())
			stand(t, d)
			d.answers(t)
			netnstest.Eventually(t, 20*time.Second, "those that stand still are dropped", func() bool { return d.Local().Dropped > 0 })
		})
	}
}

// Clients of the daemon's own user neither delay root's clients nor take their places.
func TestRootHasItsOwnPlaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl")
	for dir := filepath.Dir(path); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	s := patient()
	s.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	d := &daemon{Server: s, path: path}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.serve(ctx, l, 65534) }()
	defer func() { cancel(); <-done }()
	roots := d.crowd(t, placesOfRoot.silent, nil) // all of root's places, which stay taken
	crowded := make(chan struct{})
	go func() {
		defer close(crowded)
		runtime.LockOSThread() // see TestOtherUsersAreRefused
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			t.Errorf("setresuid: %v", errno)
		}
		const n = 2000
		for range n {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer conn.Close()
		}
		netnstest.Eventually(t, 20*time.Second, "those that find no place are dropped", func() bool {
			return d.Local().Dropped >= n-uint64(2*placesOfOthers.silent)
		})
	}()
	<-crowded
	if slices.ContainsFunc(roots, func(conn net.Conn) bool { return isDropped(t, conn) }) || d.Local().Refused > 0 {
		t.Errorf("a client of root's has lost its place: %+v", d.Local())
	}
	d.answers(t)
}

// The client that stops the daemon waits until the daemon has released everything.
func TestKillIsAnsweredLast(t *testing.T) {
	stopped := make(chan struct{})
	d := serve(t, &Server{Stop: func() { close(stopped) }})
	answered := make(chan error)
	go func() { answered <- Ask(t.Context(), d.path, Kill, nil, io.Discard) }()
	<-stopped
	if text, err := d.ask(t, StatsRuntime); err != nil || text == "" {
		t.Errorf("another client meanwhile: %q, %v", text, err)
	}
	select {
	case err := <-answered:
		t.Errorf("answered before the end: %v", err)
	default:
	}
	d.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// A client of another user gets nothing, even if it can reach the socket.
func TestOtherUsersAreRefused(t *testing.T) {
	d := serve(t, &Server{})
	if err := os.Chmod(d.path, 0o666); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(d.path); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The credentials are those of the thread that connects.
	conn := make(chan net.Conn)
	go func() {
		// This thread ends with the goroutine: it never gets its user back.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			t.Errorf("setresuid: %v", errno)
		}
		c, err := net.Dial("unix", d.path)
		if err != nil {
			t.Errorf("dial: %v", err)
		}
		conn <- c
	}()
	c := <-conn
	if c == nil {
		return
	}
	defer c.Close()
	binary.Write(c, binary.NativeEndian, uint32(StatsRuntime))
	if text, _ := io.ReadAll(c); len(text) != 0 {
		t.Errorf("answered %q", text)
	}
	if got := d.Local().Refused; got != 1 {
		t.Errorf("%d refused", got)
	}
}

// In a world-writable directory, another user may listen in the daemon's place.
func TestListenerOfAnotherUserIsRefused(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "ctl")
	listener := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // as above
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			t.Errorf("setresuid: %v", errno)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Errorf("listen: %v", err)
		}
		listener <- l
	}()
	l := <-listener
	if l == nil {
		return
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("all is well\x00"))
			io.ReadFull(conn, make([]byte, 4)) // unread input would reset the connection
			conn.Close()
		}
	}()
	var text bytes.Buffer
	if err := Ask(t.Context(), path, CommitAll|WithOutcome, nil, &text); !errors.Is(err, ErrStranger) || text.Len() > 0 {
		t.Errorf("%v, %q", err, text.String())
	}
	// A daemon that has a user and a directory of its own.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Ask(t.Context(), path, CommitAll|WithOutcome, nil, &text); err != nil || text.String() != "all is well" {
		t.Errorf("%v, %q", err, text.String())
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("the socket of a living daemon was taken")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("and removed: %v", err)
	}
	first.Listener.Close() // as a daemon that was killed
	if Answers(path) {
		t.Error("a stale socket answers")
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	second.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end the socket is still there: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(path); err == nil {
		l.Close()
		t.Error("a file was replaced by the socket")
	}
}

// A daemon removes the socket that it created but nothing that has replaced it: a file, a link
// or another daemon's socket, even if it closes a second time.
func TestCloseRemovesOnlyItsSocket(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"link":      func(path string) error { return os.Symlink("/none", path) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"socket": func(path string) error {
			l, err := Listen(path)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
		"hard link to a file": func(path string) error {
			return errors.Join(os.WriteFile(path+".other", nil, 0o600), os.Link(path+".other", path))
		},
	} {
		path := filepath.Join(t.TempDir(), "ctl")
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(path), put(path)); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := l.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s in the place of the socket: %v", name, err)
		}
	}
	// A socket that was already removed is not an error.
	path := filepath.Join(t.TempDir(), "ctl")
	l, err := Listen(path)
	if err == nil {
		err = errors.Join(os.Rename(path, path+".moved"), l.Close())
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path + ".moved"); err != nil {
		t.Errorf("removed by another name: %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("text\x00"), []byte("outcome"), true)
	f.Add([]byte("te"), []byte("xt\x00"), true)
	f.Add([]byte{}, []byte{}, true)
	f.Add([]byte("plain"), []byte("\x00"), false)
	f.Fuzz(func(t *testing.T, one, two []byte, outcome bool) {
		var text bytes.Buffer
		a := answer{text: &text, outcome: outcome}
		a.Write(one)
		a.Write(two)
		all := append(append([]byte{}, one...), two...)
		want, end, ended := all, []byte(nil), false
		if outcome {
			want, end, ended = bytes.Cut(all, []byte{0})
		}
		if len(end) > maxOutcome {
			end = end[:maxOutcome]
		}
		if !bytes.Equal(text.Bytes(), want) || !bytes.Equal(a.end, end) || a.ended != ended {
			t.Errorf("%q %q: text %q, end %q, ended %v", one, two, text.Bytes(), a.end, a.ended)
		}
	})
}

// Ready has no text, and what is lacking as its outcome.
func TestReady(t *testing.T) {
	d := serve(t, &Server{})
	d.node.ready = node.Readiness{Decision: readiness.Decision{Why: "no peer has been heard"}}
	text, err := d.ask(t, Ready(0))
	var outcome Outcome
	if text != "" || !errors.As(err, &outcome) || outcome != "not in sync: no peer has been heard" || d.node.all() != "ready-0s" {
		t.Errorf("%q, %v", text, err)
	}
	d.node.ready = node.Readiness{Decision: readiness.Decision{InSync: true}}
	if text, err := d.ask(t, Ready(MaxLag)); text != "" || err != nil || d.node.all() != "ready-4h33m3s" {
		t.Errorf("%q, %v", text, err)
	}
	d.node.err = node.ErrUnsupported
	if _, err := d.ask(t, Ready(1)); !errors.As(err, &outcome) || string(outcome) != node.ErrUnsupported.Error() {
		t.Errorf("%v", err)
	}
	if _, err := d.ask(t, Ready(1)&^WithOutcome); err != nil && !errors.Is(err, ErrUnknown) {
		t.Errorf("without an outcome: %v", err)
	}
}
