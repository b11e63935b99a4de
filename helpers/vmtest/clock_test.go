//go:build vm

package vmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// All programs of a machine share its wall clock, so only tests with a machine of their own
// can set it.

// stepClock moves the wall clock by d.
func stepClock(t *testing.T, by time.Duration) {
	t.Helper()
	if os.Getenv("CTBOX_VM") == "" {
		t.Fatal("this sets the machine's clock: run it with scripts/vm.sh")
	}
	setClock(t, time.Now().Add(by))
}

func setClock(t *testing.T, to time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(to.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatalf("set the clock: %v", err)
	}
}

// replica is a node of a pair that replicates.
type replica struct {
	*netnstest.NS
	t      *testing.T
	config string
	dir    string
	daemon *netnstest.Process
}

// newReplicas returns two running nodes that replicate in this mode.
func newReplicas(t *testing.T, mode string) (a, b *replica) {
	t.Helper()
	pair := [2]*replica{{NS: netnstest.New(t, "a")}, {NS: netnstest.New(t, "b")}}
	netnstest.Link(t, netnstest.End{NS: pair[0].NS, Dev: "sync0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: pair[1].NS, Dev: "sync0", Addrs: []string{"192.0.2.2/24"}})
	for i, r := range pair {
		r.t, r.dir = t, t.TempDir()
		r.config = filepath.Join(r.dir, "conntrackd.conf")
		text := fmt.Sprintf("General {\n LockFile %[1]s/lock\n UNIX {\n  Path %[1]s/ctl\n }\n}\nSync {\n%[2]s\n PurgeTimeout 5\n UDP {\n"+
			"  IPv4_address 192.0.2.%[3]d\n  IPv4_Destination_Address 192.0.2.%[4]d\n  Port 3780\n  Interface sync0\n }\n}\n",
			r.dir, mode, i+1, 2-i)
		if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.start()
	}
	return pair[0], pair[1]
}

func (r *replica) start() {
	r.t.Helper()
	r.daemon = r.Start(applet("conntrackd"), "-C", r.config)
	// A flow that begins during the first reading of the kernel's table can arrive twice, from
	// the dump and as an event; the cache then counts the first one as destroyed.
	netnstest.Eventually(r.t, patience, "the daemon has read the kernel's table", func() bool {
		var status struct{ Tasks []struct{ Type string } }
		answer := r.Run("", applet("conntrackd"), "-C", r.config, "-s", "--json")
		return answer.Code == 0 && json.Unmarshal([]byte(answer.Stdout), &status) == nil && len(status.Tasks) == 0
	})
}

func (r *replica) client(args ...string) string {
	r.t.Helper()
	return r.Must(applet("conntrackd"), append([]string{"-C", r.config}, args...)...)
}

// begin creates a flow with a timeout of an hour.
func (r *replica) begin(port int) {
	r.t.Helper()
	r.Must(applet("conntrack"), "-I", "-p", "tcp", "-s", "198.51.100.1", "-d", "203.0.113.1",
		"--sport", strconv.Itoa(port), "--dport", "80", "--state", "ESTABLISHED", "-u", "SEEN_REPLY,ASSURED", "-t", "3600")
}

// knows waits until the peer's flows from these ports, and no others, are in the
// external cache.
func (r *replica) knows(ports ...int) {
	r.t.Helper()
	r.knowsWithin(patience, ports...)
}

func (r *replica) knowsWithin(limit time.Duration, ports ...int) {
	r.t.Helper()
	netnstest.Eventually(r.t, limit, fmt.Sprintf("the backup knows %v", ports), func() bool {
		text := r.client("-e")
		for _, port := range ports {
			if !strings.Contains(text, fmt.Sprintf("sport=%d ", port)) {
				return false
			}
		}
		return strings.Count(text, "sport=") == len(ports)
	})
}

// numbers returns the counters that a step of the clock must not change.
type numbers struct {
	Replication struct {
		Asked   int `json:"resyncs_asked"`
		Served  int `json:"resyncs_served"`
		GivenUp int `json:"given_up"`
		Resent  int
	}
	Caches struct {
		External struct {
			Flows struct{ Destroyed int }
		}
	}
}

func (r *replica) numbers() (n numbers) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.client("-s", "--json")), &n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

var activeSince = regexp.MustCompile(`\[active since (\d+)s\]`)

// young checks that no entry's reported age exceeds the duration of the test.
func (r *replica) young(cache string) {
	r.t.Helper()
	text := r.client(cache)
	for _, m := range activeSince.FindAllStringSubmatch(text, -1) {
		if age, err := strconv.Atoi(m[1]); err != nil || age > 600 {
			r.t.Errorf("%s after a step of the clock: %s", cache, m[0])
		}
	}
}

// cacheTimeout is many times the refresh period, because the machine may be slow at times.
const cacheTimeout = 30 * time.Second

// A pair is not affected when the wall clock is set, by any amount: nothing expires early or
// late, ages are right, and no node takes its peer for a restarted one.
func TestClockSteps(t *testing.T) {
	began := time.Now()
	t.Cleanup(func() { setClock(t, began.Add(time.Since(began))) })
	for name, mode := range map[string]string{
		"FTFW":    " Mode FTFW {\n }\n",
		"NOTRACK": " Mode NOTRACK {\n }\n",
		"ALARM":   fmt.Sprintf(" Mode ALARM {\n  RefreshTime 2\n  CacheTimeout %d\n }\n", int(cacheTimeout.Seconds())),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newReplicas(t, mode)
			ports := []int{1000}
			a.begin(1000)
			b.knows(ports...)
			before := b.numbers()
			for _, by := range []time.Duration{2 * time.Hour, -24 * time.Hour, 24 * 365 * time.Hour, -24 * 365 * time.Hour} {
				stepClock(t, by)
				port := 1000 + len(ports)
				ports = append(ports, port)
				a.begin(port)
				b.knows(ports...)
				b.young("-e")
				a.young("-i")
			}
			if after := b.numbers(); after != before {
				t.Errorf("before the steps %+v, after them %+v", before, after)
			}

			// Committed flows have the rest of their timeout.
			stepClock(t, 2*time.Hour)
			b.client("-c")
			table := b.Must(applet("conntrack"), "-L")
			if strings.Count(table, "tcp      6 3") != len(ports) {
				t.Errorf("committed:\n%s", table)
			}

			// The scheduled purge runs after 5 seconds, although the clock was set a day
			// back.
			b.client("-t")
			stepClock(t, -24*time.Hour)
			netnstest.Eventually(t, patience, "the kernel's table is empty", func() bool {
				return strings.TrimSpace(b.Must(applet("conntrack"), "-C")) == "0"
			})

			// A restarted daemon numbers its messages from the time of day, which is now
			// before that of its first start.
			a.daemon.Stop(syscall.SIGKILL)
			if name == "ALARM" {
				b.knowsWithin(cacheTimeout + patience) // no node announces them any more
			}
			a.start()
			if name == "NOTRACK" {
				a.client("-B") // in this mode nothing is repeated without a request
			}
			b.knows(ports...)
			a.begin(2000)
			b.knows(append(ports, 2000)...)
		})
	}
}
