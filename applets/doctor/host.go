package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// host is the system that is examined, as the calling thread sees it.
type host struct {
	ctx   context.Context
	conn  *nl.Conn     // nil if no socket could be opened
	cfg   *conf.Config // nil without a configuration
	root  string       // prefix of every path: "/"
	asked bool         // the user selected an applet with --for
	found bool         // checkConntrack has found that ctnetlink answers
}

func (h *host) closeConn() {
	if h.conn != nil {
		h.conn.Close()
	}
}

// file returns a file's text without leading and trailing white space.
//
//go:noinline
func (h *host) file(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(h.root, path))
	return strings.TrimSpace(string(text)), err
}

// exists reports whether a file exists at path.
func (h *host) exists(path string) bool {
	_, err := os.Stat(filepath.Join(h.root, path))
	return err == nil
}

// netfilter returns the kernel parameter net.netfilter.NAME, and whether this
// kernel has it and the caller may read it.
//
//go:noinline
func (h *host) netfilter(name string) (value string, ok bool) {
	value, err := h.file("proc/sys/net/netfilter/" + name)
	return value, err == nil
}

// number returns the kernel parameter net.netfilter.NAME as a number.
//
//go:noinline
func (h *host) number(name string) (n uint64, ok bool) {
	text, ok := h.netfilter(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

// replicates reports whether the configuration has a Sync clause.
//
//go:noinline
func (h *host) replicates() bool { return h.cfg != nil && h.cfg.Sync != nil }

// replicated returns the severity of a finding that only harms replication.
func (h *host) replicated() Severity {
	if h.replicates() {
		return Warning
	}
	return Note
}

// needed returns the severity of a missing part: bad if the user selected the applet that needs
// it.
func (h *host) needed(bad Severity) Severity {
	if h.asked {
		return bad
	}
	return Note
}

// setting returns the command that sets net.netfilter.NAME.
//
//go:noinline
func setting(name, value string) string {
	return "sysctl -w net.netfilter." + name + "=" + value
}

// count returns the number of flows in the table.
func (h *host) count() (uint64, error) {
	if h.conn == nil {
		return 0, unix.ENOTCONN
	}
	n, _, err := ctnetlink.Count(h.ctx, h.conn)
	return uint64(n), err
}

// answer is the answer to the question whether the kernel has a part.
type answer uint8

const (
	answerYes answer = iota
	answerNo
	answerDenied // no privilege to ask
	answerNone   // the request failed
)

// ask sends a dump request that only a kernel with the part supports, and returns the answer.
// nfnetlink refuses an unknown subsystem with EINVAL, but checks CAP_NET_ADMIN first.
func (h *host) ask(typ nl.Type) (answer, error) {
	if h.conn == nil {
		return answerNone, unix.ENOTCONN
	}
	_, err := h.conn.Dump(h.ctx, ctnetlink.Dump{Type: typ}.Request(), func(*nl.Message) error { return nil })
	switch {
	case err == nil:
		return answerYes, nil
	case errors.Is(err, unix.EPERM):
		return answerDenied, err
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return answerNo, err
	}
	return answerNone, err
}

// release returns the kernel's version as in uname -r.
func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

//go:noinline
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// size formats a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= 10<<30:
		return decimal(n>>30) + " GiB"
	case n >= 10<<20:
		return decimal(n>>20) + " MiB"
	}
	return decimal(n>>10) + " KiB"
}
