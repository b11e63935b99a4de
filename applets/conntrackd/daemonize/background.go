// Package daemonize turns the process into a daemon: lock file, detaching from the
// terminal, real-time scheduling, memory limits and systemd's notification protocol.
package daemonize

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyFD names the environment variable with the descriptor to which a daemon in the
// background writes when it is ready. A Go program cannot fork: the daemon is a new process
// of the same binary.
const readyFD = "CTBOX_CONNTRACKD_READY_FD"

// Background starts this program again with argv, as the leader of a new session. When that
// process calls Detach, Background calls ready with its process id and returns; Detach waits
// for that. Until then the process has our standard output and error. If it does not start,
// it prints the reason there and the error is an *exec.ExitError.
func Background(argv []string, stdout, stderr io.Writer, ready func(pid int)) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: executable(),
		Args: argv,
		// The first of ExtraFiles is descriptor 3.
		ExtraFiles: []*os.File{w},
		// With nil, package exec would open /dev/null. The daemon closes it itself.
		Stdin:       os.Stdin,
		Env:         append(os.Environ(), readyFD+"=3"),
		Stdout:      stdout,
		Stderr:      stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	var signal [1]byte
	if _, err := io.ReadFull(r, signal[:]); err == nil {
		ready(cmd.Process.Pid)
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errors.New("the daemon ended before it was ready")
}

// executable returns the path of this program's file. The link in /proc leads to the file
// that runs, even if its name was replaced since; without /proc, the name under which the
// program was started is used.
func executable() string {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self
	}
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		return path
	}
	return self
}

// Parent is the process that waits for this one to become a daemon.
type Parent struct {
	ready *os.File
	PID   int
}

// InBackground returns the Parent if this process was started by Background, and
// nil if not. It is called once, before any other process is started.
func InBackground() *Parent {
	value, ok := os.LookupEnv(readyFD)
	if !ok {
		return nil
	}
	os.Unsetenv(readyFD)
	fd, err := strconv.Atoi(value)
	if err != nil {
		return nil
	}
	// A value inherited from some other process does not name a pipe of ours.
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil
	}
	unix.CloseOnExec(fd)
	return &Parent{os.NewFile(uintptr(fd), "ready"), os.Getppid()}
}

// Detach reports to the parent that the daemon is ready, waits until the parent has
// finished, and leaves the terminal: standard output and error become /dev/null. A parent
// that has already exited is not an error.
func (p *Parent) Detach() error {
	defer p.ready.Close()
	if _, err := p.ready.Write([]byte{1}); err == nil {
		// The other end is closed when the parent has finished.
		poll := []unix.PollFd{{Fd: int32(p.ready.Fd())}}
		for {
			if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	return toNull(1, 2)
}

// CloseInput replaces standard input by /dev/null.
func CloseInput() error { return toNull(0) }

// toNull replaces descriptors by /dev/null. In a root directory without that device, every
// read and write of the replacement fails; their numbers still cannot be reused.
func toNull(fds ...int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		null, err = unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("open a substitute for /dev/null: %w", err)
	}
	defer unix.Close(null)
	for _, fd := range fds {
		if err := unix.Dup3(null, fd, 0); err != nil && null != fd {
			return fmt.Errorf("redirect descriptor %d: %w", fd, err)
		}
	}
	return nil
}
