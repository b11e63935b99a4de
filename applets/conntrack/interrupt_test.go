package conntrack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// TestInterrupted ends commands by a signal while they wait for who reads their
// output: the lines that are printed are whole, what was changed is said, and the
// status is the one that a shell gives a program that the signal kills.
func TestInterrupted(t *testing.T) {
	const flows = 60000 // far more than pipe and buffers hold
	file := filepath.Join(t.TempDir(), "load")
	if err := os.WriteFile(file, []byte("-I -t 1000 "+tcp4+"\n-U -m 7\n-F\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for line, check := range map[string]func(*testing.T, *netnstest.NS, []string, string){
			"-L": func(t *testing.T, _ *netnstest.NS, printed []string, stderr string) {
				if stderr != "" || len(printed) >= flows {
					t.Errorf("%d flows printed; %s", len(printed), stderr)
				}
			},
			"-D": func(t *testing.T, ns *netnstest.NS, printed []string, stderr string) {
				n := summaryNumber(t, stderr, "flow entries have been deleted.")
				// The first line is printed before the flow is deleted.
				if left := entries(t, ns); n != len(printed) && (n != 0 || len(printed) != 1) || n+left != flows || left == 0 {
					t.Errorf("%d deleted, %d printed, %d left", n, len(printed), left)
				}
			},
			"-U -m 7": func(t *testing.T, ns *netnstest.NS, printed []string, stderr string) {
				n := summaryNumber(t, stderr, "flow entries have been updated.")
				changed := strings.Count(run(t, ns, "-L -m 7").stdout, "\n")
				if n != len(printed) || n != changed || n >= flows {
					t.Errorf("%d updated, %d printed, %d changed", n, len(printed), changed)
				}
			},
			"-R " + file: func(t *testing.T, ns *netnstest.NS, printed []string, stderr string) {
				want := said(file + ": interrupted; at least 1 of 3 lines were carried out")
				if left := entries(t, ns); stderr != want || left != flows+1 || len(printed) > flows {
					t.Errorf("%d flows left; %s", left, stderr)
				}
			},
		} {
			t.Run(sig.String()+" "+strings.Fields(line)[0], func(t *testing.T) {
				ns := netnstest.New(t, "interrupt")
				fillTable(t, ns, flows)
				stdout, stderr, status := interrupt(t, ns, line, sig)
				if want := 128 + int(sig); status != want {
					t.Errorf("status %d, want %d", status, want)
				}
				printed := strings.SplitAfter(stdout, "\n")
				if last := len(printed) - 1; printed[last] != "" {
					t.Errorf("half a line: %q", printed[last])
				}
				check(t, ns, printed[:len(printed)-1], strings.ReplaceAll(stderr, changedWarning, ""))
			})
		}
	}
}

// interrupt runs a command that prints more than a pipe holds, sends it the signal
// before anything is read but the first line, and reads the rest when it has taken
// it.
func interrupt(t *testing.T, ns *netnstest.NS, line string, sig syscall.Signal) (stdout, stderr string, status int) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := ns.Command(netnstest.Applet(t, "conntrack"), strings.Fields(line)...)
	cmd.Stdout = writer
	p := ns.Launch(cmd)
	writer.Close()
	in := bufio.NewReader(reader)
	first, err := in.ReadString('\n')
	if err != nil {
		t.Fatalf("%q %v", first, err)
	}
	if err := syscall.Kill(p.Pid(), sig); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, 20*time.Second, "the signal is taken", func() bool { return !pending(t, p.Pid(), sig) })
	rest, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	r := p.Wait(30 * time.Second)
	return first + string(rest), r.Stderr, r.Code
}

var pendingSignals = regexp.MustCompile(`(?m)^ShdPnd:\t([0-9a-f]+)$`)

// pending reports whether a signal to a process waits to be taken (proc(5)). A process
// that has ended has taken it.
func pending(t *testing.T, pid int, sig syscall.Signal) bool {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	m := pendingSignals.FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s", text)
	}
	set, err := strconv.ParseUint(string(m[1]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set&(1<<(sig-1)) != 0
}
