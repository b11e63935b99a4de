package netnstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Requests of linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// HangingDisk returns a directory on a disk of its own. Between freeze and thaw a process that
// writes there waits, as on a file server that is gone.
func HangingDisk(t testing.TB) (dir string, freeze, thaw func()) {
	t.Helper()
	dir = t.TempDir()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	control := func(request uint) {
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := unix.IoctlSetInt(int(d.Fd()), request, 0); err != nil {
			t.Fatal(err)
		}
	}
	frozen := false
	freeze = func() {
		control(fiFreeze)
		frozen = true
	}
	thaw = func() {
		if frozen {
			control(fiThaw)
		}
		frozen = false
	}
	t.Cleanup(thaw)
	return dir, freeze, thaw
}
