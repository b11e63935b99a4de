package cerror

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The C library itself says what is right, by way of Python. Errors are matched
// by name: their numbers differ between architectures.
func TestTextIsTheCLibrarys(t *testing.T) {
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
