package strerror

import (
	"errors"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Python returns the C library's texts. Errors are matched by name: their numbers differ
// between architectures.
func TestTextMatchesCLibrary(t *testing.T) {
	out, err := exec.Command("python3", "-c",
		"import errno, os\nfor n, name in errno.errorcode.items(): print(name, os.strerror(n))").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		want[name] = text
	}
	delete(want, "EDEADLOCK") // EDEADLK here, an error of its own on MIPS
	compared := 0
	for n := syscall.Errno(1); n < 2000; n++ {
		name := unix.ErrnoName(n)
		if want[name] == "" || strings.HasPrefix(Text(n), "Unknown error ") {
			continue
		}
		compared++
		if got := Text(n); got != want[name] {
			t.Errorf("%s is %q, want %q", name, got, want[name])
		}
	}
	if compared < 120 {
		t.Errorf("only %d errors compared", compared)
	}
	if got := Text(524); got != "Unknown error 524" {
		t.Errorf("error 524 is %q", got)
	}
}

func TestOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{unix.EACCES, "Permission denied"},
		{&fs.PathError{Op: "open", Path: "/x", Err: unix.ENOENT}, "No such file or directory"},
		{errors.New("own words"), "own words"},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("%v: %q", c.err, got)
		}
	}
}
