package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Started under one of these names, the test binary makes all attempts, in the sandbox or
// outside, or does a daemon's work in it.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "confined":
		enter()
		try()
	case "free":
		try()
	case "working":
		enter()
		work(os.Args[1])
	case "entering":
		fmt.Println(Enter(Later{}))
	default:
		status := m.Run()
		os.RemoveAll(built.dir)
		os.Exit(status)
	}
}

func enter() {
	if err := Enter(Later{}); err != nil {
		fmt.Println("Enter:", err)
		os.Exit(1)
	}
}

// attempts are calls of a process that was taken over. With their arguments they also fail
// outside the sandbox, but with other errors.
var attempts = []struct {
	name string
	do   func() error
}{
	{"execve", func() error { return unix.Exec("/none", []string{"none"}, nil) }},
	{"fork", func() error {
		return raw(unix.SYS_CLONE, ^uintptr(0)&^unix.CLONE_THREAD&0xffffffff, ^uintptr(0)&^unix.CLONE_THREAD&0xffffffff, 0)
	}},
	{"clone3", func() error { return raw(unix.SYS_CLONE3, 0, 0, 0) }},
	{"ptrace", func() error { return unix.PtraceAttach(-1) }},
	{"process_vm_readv", func() error { return raw(unix.SYS_PROCESS_VM_READV, ^uintptr(0), 0, 0) }},
	{"kill", func() error { return unix.Kill(os.Getpid(), 99) }},
	{"tgkill of another process", func() error { return raw(unix.SYS_TGKILL, 1<<30, 1<<30, 0) }},
	{"mount", func() error { return unix.Mount("none", "/none", "none", 0, "") }},
	{"umount2", func() error { return unix.Unmount("/none", 0) }},
	{"chroot", func() error { return unix.Chroot("/none") }},
	{"unshare", func() error { return unix.Unshare(1) }},
	{"setns", func() error { return unix.Setns(-1, 0) }},
	{"reboot", func() error { return raw(unix.SYS_REBOOT, 0, 0, 0) }},
	{"kexec_load", func() error { return raw(unix.SYS_KEXEC_LOAD, 0, 99, 0) }},
	{"init_module", func() error { return raw(unix.SYS_INIT_MODULE, 0, 0, 0) }},
	{"delete_module", func() error { return raw(unix.SYS_DELETE_MODULE, 0, 0, 0) }},
	{"bpf", func() error { return raw(unix.SYS_BPF, 9999, 0, 0) }},
	{"perf_event_open", func() error { return raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }},
	{"io_uring_setup", func() error { return raw(unix.SYS_IO_URING_SETUP, 0, 0, 0) }},
	{"keyctl", func() error { return raw(unix.SYS_KEYCTL, 9999, 0, 0) }},
	{"setreuid", func() error { return raw(unix.SYS_SETREUID, 1<<32-1, 1<<32-1, 0) }},
	{"capset", func() error { return raw(unix.SYS_CAPSET, 0, 0, 0) }},
	{"another prctl", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 99, 0, 0, 0) }},
	{"another filter", func() error { return raw(unix.SYS_SECCOMP, 99, 0, 0) }},
	{"sched_setscheduler", func() error { return raw(unix.SYS_SCHED_SETSCHEDULER, ^uintptr(0), 0, 0) }},
	{"chmod", func() error { return unix.Fchmodat(unix.AT_FDCWD, "/none", 0o4755, 0) }},
	{"chown", func() error { return unix.Fchownat(unix.AT_FDCWD, "/none", 1, 1, 0) }},
	{"link", func() error { return unix.Linkat(unix.AT_FDCWD, "/none", unix.AT_FDCWD, "/none2", 0) }},
	{"symlink", func() error { return unix.Symlinkat("/none", unix.AT_FDCWD, "/none/none") }},
	{"mkdir", func() error { return unix.Mkdirat(unix.AT_FDCWD, "/none/none", 0) }},
	{"mknod", func() error { return unix.Mknodat(unix.AT_FDCWD, "/none/none", unix.S_IFBLK, 1) }},
	{"ioctl", func() error { _, err := unix.IoctlGetInt(-1, unix.TIOCSTI); return err }},
	{"memfd_create", func() error { return raw(unix.SYS_MEMFD_CREATE, 0, ^uintptr(0), 0) }},
	{"code in memory", func() error {
		return raw(unix.SYS_MPROTECT, 1, 4096, unix.PROT_READ|unix.PROT_EXEC)
	}},
	{"executable mapping", func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		return err
	}},
	{"packet socket", func() error { _, err := unix.Socket(unix.AF_PACKET, 99, 0); return err }},
	{"socket of another family", func() error { _, err := unix.Socket(unix.AF_ALG, 99, 0); return err }},
	// Calls that need a capability. They succeed outside the sandbox.
	{"raw socket", func() error { return closed(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)) }},
	{"raw IPv6 socket", func() error { return closed(unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_UDP)) }},
	{"privileged port", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return nil // unexpected
		}
		defer unix.Close(fd)
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}})
	}},
}

func raw(number, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall6(number, a, b, c, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func closed(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// try makes every attempt on a thread that existed before Enter and on a new one.
func try() {
	for range 2 {
		for _, a := range attempts {
			err := a.do()
			if errors.Is(err, unix.EACCES) {
				err = unix.EPERM // the port
			}
			fmt.Printf("%s: %v\n", a.name, errors.Is(err, unix.EPERM))
		}
		ran := make(chan int)
		go func() {
			runtime.LockOSThread()
			ran <- unix.Gettid()
		}()
		<-ran
	}
}

// work does a daemon's work, with many threads, and reports failures.
func work(dir string) {
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Println(err)
		return
	}
	checkThread()
	var threads sync.WaitGroup
	for range 20 {
		threads.Go(func() {
			runtime.LockOSThread()
			for range 20 {
				garbage := make([][]byte, 200)
				for i := range garbage {
					garbage[i] = make([]byte, 4096)
				}
				fmt.Fprintln(log, len(garbage))
				runtime.GC()
			}
			debug.FreeOSMemory()
			checkThread()
		})
	}
	threads.Wait()
	if err := errors.Join(log.Truncate(1), log.Close(), os.Remove(log.Name())); err != nil {
		fmt.Println(err)
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		if conn, err := net.ListenPacket("udp", address); err != nil {
			fmt.Println(err)
		} else {
			conn.Close()
		}
	}
	if _, err := net.Interfaces(); err != nil {
		fmt.Println(err)
	}
}

// checkThread reports privileges that the calling thread should not have.
func checkThread() {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		fmt.Println(err)
	}
	for _, want := range []string{"CapEff:\t0000000000001000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !bytes.Contains(status, []byte(want)) {
			fmt.Printf("a thread's status has no %q\n%s", want, status)
		}
	}
}

// built returns this test binary without cgo, which the race detector needs.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func withoutCgo() (string, error) {
	const name = "sandbox.test"
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sandbox-test-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "test", "-c", "-o", filepath.Join(built.dir, name), ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-tags=urfave_cli_no_docs")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	return filepath.Join(built.dir, name), built.err
}

// run starts the test binary under another name and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	bin, err := withoutCgo()
	if err != nil {
		t.Fatal(err)
	}
	return runBinary(t, bin, name, args...)
}

func runBinary(t *testing.T, bin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin)
	cmd.Args = append([]string{name}, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// Every attempt fails in the sandbox, and because of it.
func TestAttemptsFail(t *testing.T) {
	for _, c := range []struct{ name, want string }{{"confined", ": true"}, {"free", ": false"}} {
		lines := strings.Split(strings.TrimSpace(run(t, c.name)), "\n")
		if len(lines) != 2*len(attempts) {
			t.Errorf("%s: %d lines", c.name, len(lines))
		}
		for _, line := range lines {
			if !strings.HasSuffix(line, c.want) {
				t.Errorf("%s: not permitted: %s", c.name, line)
			}
		}
	}
}

func TestWork(t *testing.T) {
	if out := run(t, "working", t.TempDir()); out != "" {
		t.Error(out)
	}
}

// With cgo not all threads can be confined, which is an error.
func TestCgo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := "<nil>\n"
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" && s.Value == "1" {
			want = "no_new_privs: this binary was built with cgo\n"
		}
	}
	if got := runBinary(t, self, "entering"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCapabilities(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mine, theirs := filepath.Join(dir, "mine"), filepath.Join(dir, "theirs")
	home := filepath.Join(dir, "home")
	for name, uid := range map[string]int{mine: 0, theirs: 65534} {
		if err := os.WriteFile(name, nil, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(name, uid, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chown(home, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	const admin, override, service = 1 << unix.CAP_NET_ADMIN, 1 << unix.CAP_DAC_OVERRIDE, 1 << unix.CAP_NET_BIND_SERVICE
	const search = 1 << unix.CAP_DAC_READ_SEARCH
	for _, c := range []struct {
		name  string
		later Later
		want  capabilities
	}{
		{"nothing", Later{}, admin},
		{"its own files", Later{Writes: []string{"", mine, filepath.Join(dir, "new")}, Ports: []uint16{0, 1024, 3780}}, admin},
		{"another user's log", Later{Writes: []string{mine, theirs}}, admin | override},
		{"another user's directory", Later{Writes: []string{filepath.Join(home, "log")}}, admin | override},
		{"its own configuration", Later{Reads: []string{mine}}, admin},
		{"another user's configuration", Later{Reads: []string{theirs}}, admin | search},
		{"privileged port", Later{Ports: []uint16{3780, 694}}, admin | service},
	} {
		if got := c.later.capabilities(); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// The filter lists every system call in the assembly of Go's runtime, on every architecture,
// except for calls at the start and of profiling.
func TestRuntimeCallsAreListed(t *testing.T) {
	const atStart = " BASE access arch_prctl brk faccessat gettimeofday kill mincore open pipe2 pselect6 setitimer setittimer timer_create timer_delete timer_settime timer_settime64 tkill mmap "
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	common := source(t, "calls.go")
	for arch, file := range map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "arm", "mips": "mipsx", "mipsle": "mipsx",
		"riscv64": "riscv64", "ppc64le": "ppc64x", "s390x": "s390x"} {
		listed := common + source(t, "calls_"+arch+".go")
		assembly := source(t, filepath.Join(strings.TrimSpace(string(root)), "src/runtime/sys_linux_"+file+".s"))
		n := 0
		for line := range strings.Lines(assembly) {
			rest, ok := strings.CutPrefix(line, "#define SYS_")
			if !ok {
				continue
			}
			name := strings.Fields(rest)[0]
			n++
			if !strings.Contains(atStart, " "+name+" ") && !strings.Contains(listed, "unix.SYS_"+strings.ToUpper(name)+",") {
				t.Errorf("%s: the runtime calls %s", arch, name)
			}
		}
		if n < 20 {
			t.Errorf("%s: found %d calls only", arch, n)
		}
		if !strings.Contains(listed, "unix.SYS_MMAP,") && !strings.Contains(listed, "unix.SYS_MMAP2,") {
			t.Errorf("%s: no mmap", arch)
		}
	}
}

func source(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
