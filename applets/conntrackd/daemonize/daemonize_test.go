package daemonize

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/internal/strerror"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary a helper program when it is started under one of its
// names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "lockholder":
		if _, _, err := AcquireLock(os.Args[1], nobody); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		select {}
	case "backgrounder":
		os.Exit(backgrounder())
	}
	os.Exit(netnstest.RunTests(m))
}

// must fails the test on any error of its preparation.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func nobody() bool   { return false }
func somebody() bool { return true }

// backgrounder is a program that starts itself in the background. Its argument selects what
// the daemon does.
func backgrounder() int {
	parent := InBackground()
	if parent == nil {
		err := Background(os.Args, os.Stdout, os.Stderr, func(pid int) { fmt.Println("ready", pid) })
		var exit *exec.ExitError
		switch {
		case err == nil:
			return 0
		case !errors.As(err, &exit):
			fmt.Println(err)
		}
		return 1
	}
	if InBackground() != nil || os.Getenv(readyFD) != "" {
		fmt.Println("the daemon's children would believe that they are daemons")
	}
	switch os.Args[1] {
	case "fail":
		fmt.Fprintln(os.Stderr, "no link")
		return 1
	case "leave":
		return 0
	}
	if err := parent.Detach(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("into the void")
	sid, _ := unix.Getsid(0)
	out, _ := os.Readlink("/proc/self/fd/1")
	os.WriteFile(os.Args[2]+".tmp", fmt.Appendf(nil, "%d %v %s", os.Getpid(), sid == os.Getpid(), out), 0o600)
	os.Rename(os.Args[2]+".tmp", os.Args[2])
	return 0
}

func self(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Args = argv
	return cmd
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, takenOver, err := AcquireLock(path, somebody)
	if err != nil || takenOver {
		t.Fatalf("a new lock: %v, %v", takenOver, err)
	}
	if text, _ := os.ReadFile(path); string(text) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("the lock file has %q", text)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Errorf("the lock file has mode %v", info.Mode())
	}
	if _, _, err := AcquireLock(path, nobody); !errors.Is(err, ErrLocked) {
		t.Errorf("a second time: %v", err)
	}
	if err := first.Release(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("released, but there: %v", err)
	}
}

// Released is only the file that was taken, also behind a link, and not what has taken its
// place.
func TestLockReleasesItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		before func(path string) error
		while  func(path string) error
		stays  bool
	}{
		"its own": {},
		"link":    {before: func(path string) error { return os.Symlink(path+".target", path) }},
		"removed": {while: os.Remove},
		"replaced": {while: func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600))
		}, stays: true},
		"another link": {while: func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/none", path)) }},
		"link to other": {while: func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path+".other", nil, 0o600), os.Symlink(path+".other", path))
		}, stays: true},
	} {
		path := filepath.Join(t.TempDir(), "lock")
		if c.before != nil {
			must(t, c.before(path))
		}
		l, _, err := AcquireLock(path, nobody)
		must(t, err)
		if c.while != nil {
			must(t, c.while(path))
		}
		if err := l.Release(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(path); (err == nil) != c.stays {
			t.Errorf("%s: afterwards %v", name, err)
		}
	}
}

// A daemon that was killed leaves its lock file behind, and the next one takes it over.
func TestLockOfKilledDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder := self(t, "lockholder", path)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	if n, _ := out.Read(line); string(line[:n]) != "held\n" {
		t.Fatalf("%q", line[:n])
	}
	if _, _, err := AcquireLock(path, nobody); !errors.Is(err, ErrLocked) {
		t.Errorf("while its owner lives: %v", err)
	}
	holder.Process.Kill()
	holder.Wait()
	// The process id in the file shows that it was one of ours, so alive is not called.
	l, takenOver, err := AcquireLock(path, somebody)
	if err != nil || !takenOver {
		t.Fatalf("after its death: %v, %v", takenOver, err)
	}
	l.Release()
}

// conntrack-tools leaves an empty file and no flock.
func TestLockOfConntrackTools(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := AcquireLock(path, somebody); !errors.Is(err, ErrLocked) {
		t.Errorf("its daemon answers: %v", err)
	}
	l, takenOver, err := AcquireLock(path, nobody)
	if err != nil || !takenOver {
		t.Fatalf("its daemon does not answer: %v, %v", takenOver, err)
	}
	l.Release()
}

// A file that is not a lock file is left alone.
func TestLockIsAnotherFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conntrackd.conf")
	if err := os.WriteFile(path, []byte("General {\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := AcquireLock(path, nobody); err == nil {
		t.Error("taken as a lock")
	}
	if text, _ := os.ReadFile(path); string(text) != "General {\n}\n" {
		t.Errorf("it has %q", text)
	}
}

func TestLockInMissingDirectory(t *testing.T) {
	_, _, err := AcquireLock(filepath.Join(t.TempDir(), "none", "lock"), nobody)
	if !errors.Is(err, fs.ErrNotExist) || strerror.Of(err) != "No such file or directory" {
		t.Errorf("%v", err)
	}
}

func TestBackground(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	out, err := self(t, "backgrounder", "run", report).CombinedOutput()
	var pid int
	if _, scanned := fmt.Sscanf(string(out), "ready %d\n", &pid); scanned != nil || err != nil || strings.Count(string(out), "\n") != 1 {
		t.Fatalf("%q, %v", out, err)
	}
	netnstest.Eventually(t, 10*time.Second, "the daemon reports", func() bool {
		_, err := os.Stat(report)
		return err == nil
	})
	text, _ := os.ReadFile(report)
	if want := fmt.Sprintf("%d true /dev/null", pid); string(text) != want {
		t.Errorf("the daemon is %q, want %q", text, want)
	}
}

func TestBackgroundThatFails(t *testing.T) {
	for arg, want := range map[string]string{"fail": "no link\n", "leave": "the daemon ended before it was ready\n"} {
		var exit *exec.ExitError
		out, err := self(t, "backgrounder", arg).CombinedOutput()
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || string(out) != want {
			t.Errorf("%s: %q, %v", arg, out, err)
		}
	}
}

// A variable that was not set by Background does not make the process a daemon.
func TestNotInBackground(t *testing.T) {
	for _, value := range []string{"0x", "9999", "-1"} {
		t.Setenv(readyFD, value)
		if InBackground() != nil {
			t.Errorf("%q makes a daemon", value)
		}
	}
}

func TestSetScheduler(t *testing.T) {
	// In a process of its own: this one shares its processor with other tests.
	if os.Getenv("TEST_SCHEDULER") == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestSetScheduler$", "-test.v")
		cmd.Env = append(os.Environ(), "TEST_SCHEDULER=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := SetScheduler(unix.SCHED_RR, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("priority 0: %v", err)
	}
	if err := SetScheduler(unix.SCHED_RR, 10); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		policy, _, errno := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(tid), 0, 0)
		if errno == 0 && policy != unix.SCHED_RR {
			t.Errorf("thread %d has policy %d", tid, policy)
		}
	}
}

// Without /proc, the lock works in the same way.
func TestWithoutProc(t *testing.T) {
	netnstest.WithoutProc(t, func(t *testing.T) { t.Run("lock", TestLockOfConntrackTools) })
}

func TestSchedulerWarning(t *testing.T) {
	want := "scheduler configuration failed: Operation not permitted. Likely a bug in conntrackd, please report it. " +
		"Continuing with system default scheduler."
	if got := SchedulerWarning(unix.EPERM); got != want {
		t.Errorf("%q", got)
	}
}

func TestMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		hashLimit uint32
		caches    int
		cgroup    int64
		want      int64
	}{
		{262144, 2, math.MaxInt64, 64*mib + 256*mib},
		{262144, 2, 100 * mib, 90 * mib},
		{math.MaxUint32, 2, math.MaxInt64, 64*mib + int64(math.MaxUint32)*2*512},
	} {
		if got := memoryLimit(c.hashLimit, c.caches, c.cgroup); got != c.want {
			t.Errorf("HashLimit %d, %d caches, cgroup %d: %d, want %d", c.hashLimit, c.caches, c.cgroup, got, c.want)
		}
	}
}

func TestCgroupLimit(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		name = filepath.Join(root, name)
		os.MkdirAll(filepath.Dir(name), 0o700)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("self", "12:memory:/elsewhere\n0::/system.slice/conntrackd.service\n")
	put("system.slice/memory.max", "500\n")
	put("system.slice/conntrackd.service/memory.max", "max\n")
	self := filepath.Join(root, "self")
	if got := cgroupLimit(self, root); got != 500 {
		t.Errorf("the slice above has 500: %d", got)
	}
	put("system.slice/conntrackd.service/memory.max", "300\n")
	if got := cgroupLimit(self, root); got != 300 {
		t.Errorf("the service has 300: %d", got)
	}
	// Version 1, alone and beside a unified hierarchy without controllers.
	const unlimited = "9223372036854771712\n"
	put("memory/memory.limit_in_bytes", unlimited)
	put("memory/vm/memory.limit_in_bytes", "400\n")
	put("memory/vm/conntrackd/memory.limit_in_bytes", unlimited)
	put("hybrid/memory/memory.limit_in_bytes", "700\n")
	for _, c := range []struct {
		text, below string
		want        int64
	}{
		{"11:memory:/vm/conntrackd\n", "", 400},
		{"3:cpu,memory:/vm\n0::/\n", "", 400},
		{"11:memory:/elsewhere\n", "", 9223372036854771712},
		{"9:memory:/docker/0123/app\n1:name=systemd:/\n0::/\n", "hybrid", 700}, // the host's path, in a container
		{"5:cpu:/vm/conntrackd\n", "", math.MaxInt64},
	} {
		put("self", c.text)
		if got := cgroupLimit(self, filepath.Join(root, c.below)); got != c.want {
			t.Errorf("version 1, %q: %d, want %d", c.text, got, c.want)
		}
	}
	for _, text := range []string{"", "1:name=systemd:/x\n", "0::/none\n", "memory\n", "4:memory\n"} {
		put("self", text)
		if got := cgroupLimit(self, filepath.Join(root, "nothing")); got != math.MaxInt64 {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// manager is a service manager's notification socket.
func manager(t *testing.T, name string) (next func() string) {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return func() string {
		t.Helper()
		buf := make([]byte, 256)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify(Ready); err != nil {
		t.Errorf("without a manager: %v", err)
	}
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@conntrackd-test-%d", os.Getpid())} {
		next := manager(t, name)
		for _, state := range []string{MainPID(77), Ready, Stopping} {
			if err := Notify(state); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := next(); got != state {
				t.Errorf("%s: %q, want %q", name, got, state)
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", "relative")
	if err := Notify(Ready); err == nil {
		t.Error("no error for a socket that is no path")
	}
}

func TestWatchdogPeriod(t *testing.T) {
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{"", "", 0, false},
		{"3000000", "", 3 * time.Second, false},
		{"3000000", "77", 3 * time.Second, false},
		{"3000000", "78", 0, false},
		{"x", "", 0, true},
		{"0", "", 0, true},
		{"18446744073709551615", "", 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got, err := WatchdogPeriod(77); got != c.want || (err != nil) != c.fails {
			t.Errorf("%q %q: %v, %v", c.usec, c.pid, got, err)
		}
	}
}

// The watchdog is fed only while the daemon answers.
func TestFeedWatchdog(t *testing.T) {
	next := manager(t, filepath.Join(t.TempDir(), "notify"))
	ctx, cancel := context.WithCancel(t.Context())
	hangs := make(chan struct{})
	asked := make(chan struct{})
	n := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		FeedWatchdog(ctx, 20*time.Millisecond, func(ctx context.Context) error {
			if n++; n == 3 {
				close(asked)
				<-hangs
				<-ctx.Done() // which has ended with the time for an answer
				return ctx.Err()
			}
			return nil
		})
	}()
	for range 2 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("%q", got)
		}
	}
	<-asked
	if err := Notify("still quiet"); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "still quiet" {
		t.Errorf("a daemon that hangs says %q", got)
	}
	close(hangs)
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("after it answered again: %q", got)
	}
	cancel()
	<-done
}
