package process

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

// readyFD names the environment variable with the descriptor on which a daemon
// in the background tells that it is ready. A Go program cannot fork: the
// daemon is a new process of the same binary.
const readyFD = "CTBOX_CONNTRACKD_READY_FD"

// Background starts this program again with argv, as the leader of a session of
// its own, and returns when it has called Detach, after it has called ready with
// the daemon's process id; the daemon waits for that. Until then it has our
// standard output and error, and says there why it does not start: then the error
// is an *exec.ExitError, and there is nothing to add.
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
		// Not nil, for which package exec would open /dev/null. The daemon lets go of it.
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
	var told [1]byte
	if _, err := io.ReadFull(r, told[:]); err == nil {
		ready(cmd.Process.Pid)
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errors.New("the daemon ended before it was ready")
}

// executable is the path of this program's file. The link in /proc leads to the very
// file, also when another one has taken its name; without /proc the name that the
// program was started under has to do.
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
	// A value that merely came down from some other process is no pipe of ours.
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil
	}
	unix.CloseOnExec(fd)
	return &Parent{os.NewFile(uintptr(fd), "ready"), os.Getppid()}
}

// Detach ends the parent's wait, waits until the parent has done what is left to
// it, and leaves the terminal: standard output and error are /dev/null from here
// on. A parent that is gone is no error.
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

// CloseInput makes standard input /dev/null.
func CloseInput() error { return toNull(0) }

// toNull makes descriptors /dev/null. In a root directory without that device they are
// one that every read and write of fails, so that no other file can take their numbers.
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
