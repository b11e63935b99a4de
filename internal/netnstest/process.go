package netnstest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Result is what a program left when it ended.
type Result struct {
	Stdout string
	Stderr string
	Code   int // the exit status, or 128 plus the signal that killed it, as in a shell
}

// Run runs a program in the namespace to its end, with stdin as its standard
// input, and fails the test only if it could not be started.
func (ns *NS) Run(stdin, name string, args ...string) Result {
	ns.t.Helper()
	cmd := ns.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return run(ns.t, cmd)
}

// Must is Run for a program that has to succeed; it returns the standard output.
func (ns *NS) Must(name string, args ...string) string {
	ns.t.Helper()
	r := ns.Run("", name, args...)
	if r.Code != 0 {
		ns.t.Fatalf("%s: %s %s: exit status %d\n%s%s", ns.Name, name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

func run(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return Result{stdout.String(), stderr.String(), exitCode(t, cmd, err)}
}

func exitCode(t testing.TB, cmd *exec.Cmd, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("netnstest: run %s: %v", strings.Join(cmd.Args, " "), err)
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// Process is a program that runs beside the test, an event listener or a
// server. Its output can be read while it runs.
type Process struct {
	Stdout, Stderr *Output

	cmd  *exec.Cmd
	t    testing.TB
	done chan struct{} // closed when the process was waited for
	err  error         // what Wait returned, valid after done
}

// Start starts a program in the namespace. It is killed when the test ends if
// it has not ended by then.
func (ns *NS) Start(name string, args ...string) *Process {
	ns.t.Helper()
	return start(ns.t, ns.Command(name, args...))
}

// Launch is Start for a command that Command has made. A standard output that
// the command has already stays, and is not collected.
func (ns *NS) Launch(cmd *exec.Cmd) *Process {
	ns.t.Helper()
	return start(ns.t, cmd)
}

func start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Stdout: new(Output), Stderr: new(Output), cmd: cmd, t: t, done: make(chan struct{})}
	cmd.Stderr = p.Stderr
	if cmd.Stdout == nil {
		cmd.Stdout = p.Stdout
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("netnstest: start %s: %v", strings.Join(cmd.Args, " "), err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
	})
	return p
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Stop sends the signal and waits for the end, at most ten seconds.
func (p *Process) Stop(sig os.Signal) Result {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("netnstest: signal %s: %v", strings.Join(p.cmd.Args, " "), err)
	}
	return p.Wait(10 * time.Second)
}

// Wait waits for the end and fails the test if that takes longer than limit.
func (p *Process) Wait(limit time.Duration) Result {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("netnstest: %s still runs after %v\nstdout: %s\nstderr: %s",
			strings.Join(p.cmd.Args, " "), limit, p.Stdout, p.Stderr)
	}
	return Result{p.Stdout.String(), p.Stderr.String(), exitCode(p.t, p.cmd, p.err)}
}

// Output collects the output of a running process.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer for the process's side.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns all that was printed so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Subscribers counts the namespace's nfnetlink sockets that are members of a
// multicast group. Poll it with Eventually to know that an event listener
// listens.
func (ns *NS) Subscribers() int {
	ns.t.Helper()
	const netlinkNetfilter = "12"
	var table []byte
	ns.Do(func() {
		var err error
		if table, err = os.ReadFile("/proc/thread-self/net/netlink"); err != nil {
			ns.t.Fatalf("netnstest: %v", err)
		}
	})
	n := 0
	for line := range strings.Lines(string(table)) {
		// sk Eth Pid Groups …, the groups as a hexadecimal mask
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != netlinkNetfilter {
			continue
		}
		if groups, err := strconv.ParseUint(f[3], 16, 64); err == nil && groups != 0 {
			n++
		}
	}
	return n
}

// Eventually polls cond until it holds, and fails the test if that takes
// longer than limit. what says what was waited for.
func Eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for wait := time.Millisecond; !cond(); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(wait)
	}
}

// WithoutProc calls test in a process that has no /proc: a copy of the test binary that
// runs the calling test again.
func WithoutProc(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	const child = "NETNSTEST_WITHOUT_PROC"
	if os.Getenv(child) != "" {
		if _, err := os.Stat("/proc/self"); err == nil {
			t.Fatal("netnstest: /proc is mounted")
		}
		test(t)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", `umount -l /proc && exec "$0" "$@"`,
		exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
