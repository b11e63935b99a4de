package conf

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// exposed tells by whom a configuration can be changed who should not be able to:
// it says which files root's daemon writes to. It is "" for one that is in order.
// A group that may write was given that on purpose.
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
	// In a sticky directory nobody can exchange another user's file.
	dir, err := os.Stat(filepath.Dir(file.Name()))
	if err == nil && dir.Mode()&0o002 != 0 && dir.Mode()&os.ModeSticky == 0 {
		return "is in a directory where every user can exchange it"
	}
	return ""
}
