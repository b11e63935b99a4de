package conntrack

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// These tests run the program as a user does, under bad conditions: without privileges,
// with a full disk, without a reader, and while others change the same table.

const cannotWrite = "can't write to standard output: no space left on device"

// TestUnprivilegedUser checks that a user without privileges gets one line and changes
// nothing. Debian's program prints the same, except for three commands.
func TestUnprivilegedUser(t *testing.T) {
	tw := netnstest.NewTwins(t, func(ns *netnstest.NS) { run(t, ns, "-I -t 1000 "+udp4) })
	if err := os.Chmod(netnstest.BinDir(t), 0o755); err != nil {
		t.Fatal(err)
	}
	nobody := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	const sorry = "sorry, you must be root or get CAP_NET_ADMIN capability to do this"
	for line, ids := range map[string]string{
		"-L": "", "-L -p tcp": "", "-L -o xml": "", "-L -z": "", "-L dying": "", "-L expect": "",
		"-G -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1000 --dport 53": "",
		"-I -t 3 " + tcp4: "", "-A -t 3 " + udp4: "",
		"-D": "", "-D -p udp": "", "-U -f ipv4 -m 3": "",
		"-F": "O13", "-F expect": "O13", "-C": "O15", "-S": "O15",
		"-E": "O12", "-E expect": "O12", "-F -f ipv4": "O13",
	} {
		theirs, ours := tw.Commands(nobody, "conntrack", strings.Fields(line)...)
		want := normalize(theirs.Args[len(theirs.Args)-1:], tw.Theirs.Launch(theirs).Wait(30*time.Second))
		got := normalize(ours.Args[len(ours.Args)-1:], tw.Ours.Launch(ours).Wait(30*time.Second))
		message := "conntrack vX: Operation failed: " + sorry + "\n"
		if strings.HasPrefix(line, "-E") {
			message = "conntrack vX: Can't open netlink socket: " + sorry + "\n"
		}
		if got != (netnstest.Result{Stderr: message, Code: 1}) {
			t.Errorf("%s: %+v", line, got)
		}
		if (got != want) != (ids != "") {
			t.Errorf("%s: %+v, Debian's %+v", line, got, want)
		}
	}
	r := tw.Ours.Run("-I -t 9 "+tcp4+"\n-D\n", nobody[0], append(nobody[1:], netnstest.Applet(t, "conntrack"), "-R", "-")...)
	if r.Code != 1 || !strings.HasPrefix(r.Stderr, messagePrefix+"-:1: Operation failed: "+sorry+"\n") || r.Stdout != "" {
		t.Errorf("-R: %+v", r)
	}
	for _, help := range []string{"-h", "-V"} {
		if r := tw.Ours.Run("", nobody[0], append(nobody[1:], netnstest.Applet(t, "conntrack"), help)...); r.Code != 0 || r.Stderr != "" {
			t.Errorf("%s: %+v", help, r)
		}
	}
	tw.Each(func(ns *netnstest.NS) {
		if left := table(t, ns); len(left) != 1 || !strings.Contains(left[0], "mark=0") {
			t.Errorf("the table of %s has become %q", ns.Name, left)
		}
	})
}

// TestFullDisk checks that a run fails whose output cannot be written, and that -D then
// deletes nothing.
func TestFullDisk(t *testing.T) {
	ns := netnstest.New(t, "full")
	fillTable(t, ns, 4000)
	run(t, ns, "-I -t 1000 "+tcp4)
	toFull := func(line string) netnstest.Result {
		return ns.Run("", "sh", "-c", "exec "+netnstest.Applet(t, "conntrack")+" "+line+" >/dev/full")
	}
	for _, line := range []string{
		"-L", "-L -o extended,id", "-L -o xml", "-L -o save", "-L -o json", "-L -p tcp", "-G " + strings.TrimSuffix(tcp4, " --state ESTABLISHED"),
		"-C", "-S", "-C -o json", "-V", "-h", "-h -p tcp", "-D", "-D -p tcp", "-D -o xml", "-D -o json",
	} {
		if r := toFull(line); r.Code != 1 || !strings.HasSuffix(r.Stderr, onStderr(cannotWrite)) {
			t.Errorf("%s to a full disk: %+v", line, r)
		}
	}
	if n := entries(t, ns); n != 4001 {
		t.Errorf("%d flows are left of 4001", n)
	}
	p := ns.Start("sh", "-c", "exec "+netnstest.Applet(t, "conntrack")+" -E >/dev/full")
	netnstest.Eventually(t, 10*time.Second, "-E listens", func() bool { return ns.Subscribers() == 1 })
	run(t, ns, "-I -t 1000 "+udp6)
	if r := p.Wait(10 * time.Second); r.Code != 1 || !strings.HasSuffix(r.Stderr, onStderr(cannotWrite)) {
		t.Errorf("-E to a full disk: %+v", r)
	}
}

// TestBrokenPipe checks that a run ends without a message when its reader closes the pipe.
func TestBrokenPipe(t *testing.T) {
	ns := netnstest.New(t, "pipe")
	fillTable(t, ns, 6000)
	for _, line := range []string{"-L", "-L -o xml", "-L -o json", "-D", "-U -m 5"} {
		r := ns.Run("", "bash", "-c", netnstest.Applet(t, "conntrack")+" "+line+" | head -n 1; echo ${PIPESTATUS[0]}")
		if lines := strings.Split(strings.TrimSpace(r.Stdout), "\n"); len(lines) != 2 || lines[1] != strconv.Itoa(128+int(syscall.SIGPIPE)) || r.Stderr != "" {
			t.Errorf("%s | head -n 1: %+v", line, r)
		}
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command(netnstest.Applet(t, "conntrack"), "-E", "-e", "NEW")
	cmd.Stdout = writer
	p := ns.Launch(cmd)
	writer.Close()
	netnstest.Eventually(t, 10*time.Second, "-E listens", func() bool { return ns.Subscribers() == 1 })
	run(t, ns, "-I -t 1000 "+tcp4)
	if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || !strings.Contains(line, "[NEW] tcp ") {
		t.Fatalf("%q %v", line, err)
	}
	reader.Close()
	run(t, ns, "-I -t 1000 "+udp6)
	if r := p.Wait(10 * time.Second); r.Code != 128+int(syscall.SIGPIPE) || r.Stderr != "" {
		t.Errorf("-E without a reader: %+v", r)
	}
}

// changedWarning is printed when the kernel reports that the table changed during a dump.
const changedWarning = "WARNING: the table changed while it was read; flows may be missing or doubled.\n"

// TestDeletersRace runs several -D on one table. Each flow is deleted and counted by one
// of them; the others do not report an error.
func TestDeletersRace(t *testing.T) {
	ns := netnstest.New(t, "race")
	const flows, deleters = 12000, 4
	fillTable(t, ns, flows)
	program := netnstest.Applet(t, "conntrack")
	var started []*netnstest.Process
	for range deleters {
		started = append(started, ns.Start(program, "-D"))
	}
	deleted, printed := 0, 0
	for _, p := range started {
		r := p.Wait(60 * time.Second)
		n := summaryNumber(t, strings.ReplaceAll(r.Stderr, changedWarning, ""), "flow entries have been deleted.")
		if r.Code != 0 && n != 0 || r.Code != 1 && n == 0 {
			t.Errorf("status %d after %d flows", r.Code, n)
		}
		deleted += n
		printed += strings.Count(r.Stdout, "\n")
	}
	// Flows that a dump missed because of concurrent changes remain. Each run prints its
	// first flow before deleting it.
	if left := entries(t, ns); deleted+left != flows || printed < deleted || printed > deleted+deleters {
		t.Errorf("%d flows: %d deleted, %d printed, %d left", flows, deleted, printed, left)
	}
}

// TestUpdateRacesDelete updates flows while another run deletes them.
func TestUpdateRacesDelete(t *testing.T) {
	ns := netnstest.New(t, "race")
	fillTable(t, ns, 8000)
	program := netnstest.Applet(t, "conntrack")
	update, remove := ns.Start(program, "-U", "-m", "7"), ns.Start(program, "-D")
	r := update.Wait(60 * time.Second)
	n := summaryNumber(t, strings.ReplaceAll(r.Stderr, changedWarning, ""), "flow entries have been updated.")
	if printed := strings.Count(r.Stdout, " mark=7 "); printed != n || r.Code != 0 && n != 0 {
		t.Errorf("%d updated, %d printed, status %d", n, printed, r.Code)
	}
	r = remove.Wait(60 * time.Second)
	summaryNumber(t, strings.ReplaceAll(r.Stderr, changedWarning, ""), "flow entries have been deleted.")
}

// summaryNumber returns the number in a summary, which must be the only message.
func summaryNumber(t *testing.T, stderr, what string) int {
	t.Helper()
	m := regexp.MustCompile(`^` + regexp.QuoteMeta(messagePrefix) + `(\d+) ` + regexp.QuoteMeta(what) + `\n$`).FindStringSubmatch(stderr)
	if m == nil {
		t.Fatalf("not a summary: %s", stderr)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// TestListWhileTheTableChanges checks that -L shows all flows that exist during the whole
// dump, or prints that it may have missed some.
func TestListWhileTheTableChanges(t *testing.T) {
	ns := netnstest.New(t, "churn")
	const stable = 2000
	fillTable(t, ns, stable)
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r := runTo(t, ns, "-R -", strings.Repeat("-I -t 1000 "+tcp4+"\n-D -p tcp\n", 20), nil); r.status != 0 {
				t.Errorf("%+v", r)
				return
			}
		}
	})
	for range 10 {
		r := ns.Run("", netnstest.Applet(t, "conntrack"), "-L", "-p", "udp")
		shown := map[string]bool{}
		for line := range strings.Lines(r.Stdout) {
			shown[line[strings.Index(line, "src="):]] = true
		}
		if r.Code != 0 || len(shown) != stable && !strings.Contains(r.Stderr, changedWarning) {
			t.Errorf("status %d, %d of %d flows: %s", r.Code, len(shown), stable, r.Stderr)
		}
	}
	close(stop)
	churn.Wait()
}

// TestStoppedListener makes the kernel drop events: the listener is stopped while they
// happen. The events that it prints and those that it reports as lost are all events.
func TestStoppedListener(t *testing.T) {
	const flows = 20000
	for _, c := range []struct {
		args  string
		loses bool
	}{
		{"-E -e NEW", false},
		{"-E -e NEW -b 8192", true},
		{"-E -e NEW -b 8192 -o json", true},
		{"-E -e NEW -b 65536 -o xml", true},
	} {
		t.Run(c.args, func(t *testing.T) {
			ns := netnstest.New(t, "stopped")
			p := ns.Start(netnstest.Applet(t, "conntrack"), strings.Fields(c.args)...)
			netnstest.Eventually(t, 10*time.Second, "it listens", func() bool { return ns.Subscribers() == 1 })
			if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			fillTable(t, ns, flows)
			if err := syscall.Kill(p.Pid(), syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			netnstest.Eventually(t, 30*time.Second, "it has read all", func() bool { return idle(t, ns, p) })
			r := p.Stop(syscall.SIGINT)
			printed, reported := countEvents(t, r.Stdout, strings.HasSuffix(c.args, "json"))
			lost := lossReported(t, r.Stderr)
			if printed+lost != flows || (lost > 0) != c.loses {
				t.Errorf("%d made, %d printed, %d lost: %s", flows, printed, lost, r.Stderr)
			}
			if strings.HasSuffix(c.args, "json") && reported != lost {
				t.Errorf("%d lost, %d of them reported in the stream", lost, reported)
			}
			if want := onStderr(fmt.Sprintf("%d flow events have been shown.", printed)); r.Code != 0 || !strings.HasSuffix(r.Stderr, want) {
				t.Errorf("status %d: %s", r.Code, r.Stderr)
			}
		})
	}
}

// TestStoppedListenerOnAnOldKernel is the same where the kernel counts no dropped events
// (before Linux 4.12): each loss is reported, with a lower bound.
func TestStoppedListenerOnAnOldKernel(t *testing.T) {
	const flows = 20000
	ns := netnstest.New(t, "stopped")
	p := ns.Launch(ns.WithoutMeminfo(netnstest.Applet(t, "conntrack"), "-E", "-e", "NEW", "-b", "8192"))
	netnstest.Eventually(t, 10*time.Second, "it listens", func() bool { return ns.Subscribers() == 1 })
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fillTable(t, ns, flows)
	if err := syscall.Kill(p.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, 30*time.Second, "the loss is reported", func() bool { return strings.Contains(p.Stderr.String(), "at least") })
	r := p.Stop(syscall.SIGINT)
	printed, _ := countEvents(t, r.Stdout, false)
	m := regexp.MustCompile(`WARNING: at least \d+ events lost, (\d+) in all\.`).FindAllStringSubmatch(r.Stderr, -1)
	if len(m) == 0 {
		t.Fatalf("status %d: %s", r.Code, r.Stderr)
	}
	if lost, _ := strconv.Atoi(m[len(m)-1][1]); printed == flows || lost == 0 || printed+lost > flows {
		t.Errorf("%d made, %d printed, at least %d lost: %s", flows, printed, lost, r.Stderr)
	}
	if want := onStderr(fmt.Sprintf("%d flow events have been shown.", printed)); r.Code != 0 || !strings.HasSuffix(r.Stderr, want) {
		t.Errorf("status %d: %s", r.Code, r.Stderr)
	}
}

// countEvents counts the events in a stream, and those that it reports as lost.
func countEvents(t *testing.T, stdout string, isJSON bool) (printed, reported int) {
	t.Helper()
	if !isJSON {
		return strings.Count(stdout, "[NEW]") + strings.Count(stdout, `<flow type="new">`), 0
	}
	for line := range strings.Lines(stdout) {
		var e struct {
			Event    string
			Messages int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Event == "lost" {
			reported += e.Messages
		} else {
			printed++
		}
	}
	return printed, reported
}

// lossReported returns the number of events reported as lost: the sum of the parts, which
// must equal the total.
func lossReported(t *testing.T, stderr string) int {
	t.Helper()
	lost := 0
	for _, m := range regexp.MustCompile(`WARNING: (\d+) events lost, (\d+) in all\.`).FindAllStringSubmatch(stderr, -1) {
		part, _ := strconv.Atoi(m[1])
		all, _ := strconv.Atoi(m[2])
		if lost += part; lost != all {
			t.Errorf("%d lost so far, not %d", lost, all)
		}
	}
	return lost
}

// TestInterrupted ends commands by a signal while they wait for the reader of their
// output: the printed lines are complete, the changes are summarised, and the exit status
// is that of a program killed by the signal.
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
				want := onStderr(file + ": interrupted; at least 1 of 3 lines were carried out")
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

// interrupt runs a command that prints more than a pipe holds, sends the signal after
// reading the first line, and reads the rest once the process has handled the signal.
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

// pending reports whether a signal to a process is pending (proc(5)). It is not if the
// process has ended.
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
