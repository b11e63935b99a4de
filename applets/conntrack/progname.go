package conntrack

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// portNames finds the names of the programs behind netlink ports. What it found,
// be it nothing, it believes for a second: looking through /proc for every
// event would cost more than the event.
type portNames struct {
	known map[uint32]portName
}

type portName struct {
	name string
	at   time.Time
}

const (
	portNameAge  = time.Second
	maxPortNames = 1024
)

// lookup returns the name of the program that has the port, "" if it has ended
// or the port is the kernel's.
func (p *portNames) lookup(port uint32, now time.Time) string {
	if port == 0 {
		return ""
	}
	if n, ok := p.known[port]; ok && now.Sub(n.at) < portNameAge {
		return n.name
	}
	if p.known == nil || len(p.known) >= maxPortNames {
		p.known = make(map[uint32]portName)
	}
	n := portName{at: now}
	if inode, ok := portInode(port); ok {
		n.name = socketOwner(port, inode)
	}
	p.known[port] = n
	return n.name
}

// netlinkNetfilter is the protocol number in /proc/net/netlink.
const netlinkNetfilter = "12"

// portInode returns the inode of the nfnetlink socket with the port, from
// /proc/net/netlink: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
func portInode(port uint32) (string, bool) {
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		return "", false
	}
	want := strconv.FormatUint(uint64(port), 10)
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) >= 10 && string(f[1]) == netlinkNetfilter && string(f[2]) == want {
			return string(f[9]), true
		}
	}
	return "", false
}

// socketOwner returns the name of a process that has the socket open. A socket's
// port is usually the process id of who opened it.
func socketOwner(port uint32, inode string) string {
	link := "socket:[" + inode + "]"
	if pid := strconv.FormatUint(uint64(port), 10); hasOpen(pid, link) {
		return processName(pid)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return ""
	}
	defer proc.Close()
	pids, _ := proc.Readdirnames(-1)
	for _, pid := range pids {
		if pid[0] >= '1' && pid[0] <= '9' && hasOpen(pid, link) {
			return processName(pid)
		}
	}
	return ""
}

func hasOpen(pid, link string) bool {
	dir, err := os.Open("/proc/" + pid + "/fd")
	if err != nil {
		return false
	}
	defer dir.Close()
	fds, _ := dir.Readdirnames(-1)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/" + pid + "/fd/" + fd); err == nil && to == link {
			return true
		}
	}
	return false
}

// processName is what stands between the parentheses of /proc/PID/stat.
func processName(pid string) string {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	from, to := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if from < 0 || to < from {
		return ""
	}
	return string(stat[from+1 : to])
}
