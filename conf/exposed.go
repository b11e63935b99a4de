package conf

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// exposed describes how users other than root can change the file, which is dangerous: it
// names the files that root's daemon writes. It is "" if they cannot. A group's write
// permission is taken as intended.
func exposed(file *os.File) string {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return "" // a pipe, say
	}
	if info.Mode()&0o002 != 0 {
		return "can be written by every user"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return "belongs to user " + strconv.Itoa(int(st.Uid))
	}
	// In a sticky directory users cannot replace the files of others.
	dir, err := os.Stat(filepath.Dir(file.Name()))
	if err == nil && dir.Mode()&0o002 != 0 && dir.Mode()&os.ModeSticky == 0 {
		return "is in a directory where every user can exchange it"
	}
	return ""
}
