package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// field returns the number behind a label of a file in /proc, 0 without the label.
func field(text []byte, label string) int {
	_, rest, _ := bytes.Cut(text, []byte(label))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(string(fields[0]))
	return n
}

// residentOf returns the resident memory of a process in KiB.
func residentOf(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return field(status, "VmRSS:")
}

// cpuOf returns the CPU time that a process has used (proc_pid_stat(5)).
func cpuOf(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const hertz = 100 // USER_HZ
	return time.Duration(user+system) * time.Second / hertz
}

// statistics are the counters of ctbox's daemon (docs/conntrackd.md) that the tests use.
type statistics struct {
	Caches map[string]struct {
		Flows struct{ Active, Objects, Memory uint64 }
	}
	Lost, Before uint64
	Malformed    map[string]uint64
	Links        []struct{ Refused uint64 }
	Replication  struct {
		Unacknowledged uint64
		ResyncsServed  uint64 `json:"resyncs_served"`
	}
	Kernel  struct{ Events, Overruns, Lost, Missing, Resyncs uint64 }
	Peers   []struct{ Missing uint64 }
	Commits struct{ Last struct{ Missing uint64 } }
}

// withOutcome and asJSON change a request of the control socket.
const (
	withOutcome = 1 << 16
	asJSON      = 1 << 17
)

func (d *daemon) statistics() (n statistics) {
	d.t.Helper()
	for _, request := range []uint32{statsNetwork, statsRuntime, statsCache, statsLink} {
		text, _, _ := strings.Cut(d.ask(request|withOutcome|asJSON), "\n")
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			d.t.Fatalf("%s: %v in %q", d.name(), err, text)
		}
	}
	return n
}
