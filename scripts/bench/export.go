package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// logger is a program that records the ends of flows in a file of JSON, or sends them to a
// collector as IPFIX.
type logger struct {
	name, path string
	ipfix      bool
	config     func(dir string, port int) (args []string, err error)
}

const ulogdPlugins = "/usr/lib/x86_64-linux-gnu/ulogd/ulogd_"

// ulogd returns ulogd2 as Debian ships it or, with settings for [ct1], tuned.
func ulogd(name string, ipfix bool, settings string) logger {
	return logger{name, "/usr/sbin/ulogd", ipfix, func(dir string, port int) ([]string, error) {
		stack, plugins, output := "ct1:NFCT,ip2str1:IP2STR,json1:JSON", []string{"inpflow_NFCT", "filter_IP2STR", "output_JSON"},
			"[json1]\nsync=0\nfile=\""+filepath.Join(dir, "out")+"\"\n"
		if ipfix {
			stack, plugins, output = "ct1:NFCT,ipfix1:IPFIX", []string{"inpflow_NFCT", "output_IPFIX"},
				fmt.Sprintf("[ipfix1]\noid=1\nhost=\"127.0.0.1\"\nport=\"%d\"\nproto=\"udp\"\n", port)
		}
		text := "[global]\nlogfile=\"" + filepath.Join(dir, "log") + "\"\n"
		for _, p := range plugins {
			text += "plugin=\"" + ulogdPlugins + p + ".so\"\n"
		}
		text += "stack=" + stack + "\n[ct1]\n" + settings + output
		config := filepath.Join(dir, "ulogd.conf")
		return []string{"-c", config}, os.WriteFile(config, []byte(text), 0o600)
	}}
}

// exporter returns our daemon as it is without further settings.
func (b *bench) exporter(ipfix bool) logger {
	return logger{"ctbox", b.oursd, ipfix, func(dir string, port int) ([]string, error) {
		clause := "Export json {\n File " + filepath.Join(dir, "out") + "\n QueueLimit 1000000\n}\n"
		if ipfix {
			clause = fmt.Sprintf("Export ipfix {\n Collector 127.0.0.1\n Port %d\n QueueLimit 1000000\n Filter {\n  Address Ignore {\n   IPv4_address 127.0.0.0/8\n  }\n }\n}\n", port)
		}
		config := filepath.Join(dir, "conntrackd.conf")
		text := fmt.Sprintf("General {\n LockFile %s\n Systemd off\n}\n%s", filepath.Join(dir, "lock"), clause)
		return []string{"-C", config}, os.WriteFile(config, []byte(text), 0o600)
	}}
}

// exports measures flow logging: flows that begin and end at full speed.
func (b *bench) exports() error {
	if !b.wanted("export") {
		return nil
	}
	const tuned = "netlink_socket_buffer_size=67108864\nnetlink_socket_buffer_maxsize=134217728\nhash_buckets=65536\nhash_max_entries=1000000\n"
	fmt.Printf("\n| export, %d flows begin and end at full speed | ends recorded | of these made up | said to be lost | CPU a flow | MiB |\n|---|---|---|---|---|---|\n", changed)
	for _, l := range []logger{
		ulogd("ulogd2, JSON", false, ""), ulogd("ulogd2, JSON, tuned", false, tuned), b.exporter(false),
		ulogd("ulogd2, IPFIX", true, ""), ulogd("ulogd2, IPFIX, tuned", true, tuned), b.exporter(true),
	} {
		for range b.runs {
			if err := b.export(l); err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
		}
	}
	return nil
}

func (b *bench) export(l logger) error {
	ns, err := newNamespace("export")
	if err != nil {
		return err
	}
	defer ns.Close()
	dir, err := os.MkdirTemp(b.dir, "export")
	if err != nil {
		return err
	}
	if err := exec.Command("ip", "-n", ns.name, "link", "set", "lo", "up").Run(); err != nil {
		return err
	}
	if err := ns.do(func() error {
		for _, sysctl := range []string{"acct", "timestamp", "events"} {
			if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_"+sysctl, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	c, err := ns.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	collector, err := newSink(ns)
	if err != nil {
		return err
	}
	defer collector.close()
	args, err := l.config(dir, collector.port)
	if err != nil {
		return err
	}
	cmd := ns.command(l.path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Process.Kill()
	peak := watchPeak(cmd.Process.Pid)
	out := filepath.Join(dir, "out")
	size := func() int64 {
		if l.ipfix {
			return int64(collector.records.Load())
		}
		info, err := os.Stat(out)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	if err := awaitRecord(c, size); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	settle(size)
	before, err := countLogged(out)
	if err != nil {
		return err
	}
	already := collector.records.Load()
	if err := fill(c, changed); err != nil {
		return err
	}
	if err := flush(c); err != nil {
		return err
	}
	settle(size)
	_ = cmd.Process.Signal(unix.SIGTERM)
	_ = cmd.Wait()
	after, err := countLogged(out)
	if err != nil {
		return err
	}
	if l.ipfix {
		after = logged{ends: int(collector.records.Load())}
		before = logged{ends: int(already)}
	}
	name := l.name
	if name == "ctbox" {
		name += map[bool]string{false: ", JSON", true: ", IPFIX"}[l.ipfix]
	}
	ends := after.ends - before.ends
	fmt.Printf("| %s | %d (%.1f %%) | %d | %d | %.2f us | %s |\n", name, ends, 100*float64(ends)/changed, after.madeUp, after.lost,
		float64(cpu(cmd).Microseconds())/changed, mebibytes(peak()))
	return nil
}

// awaitRecord makes and ends flows until there is a record of one.
func awaitRecord(c *nl.Conn, size func() int64) error {
	first := size()
	for end := time.Now().Add(20 * time.Second); size() == first; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("recorded nothing")
		}
		if err := create(c, 1, func(_ int, f *ctnetlink.Flow) { probe(f) }); err != nil {
			return err
		}
		if err := flush(c); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until nothing has come for two seconds.
func settle(size func() int64) {
	for last, quiet := size(), 0; quiet < 20; time.Sleep(100 * time.Millisecond) {
		if now := size(); now == last {
			quiet++
		} else {
			last, quiet = now, 0
		}
	}
}

// logged is what a file of JSON has.
type logged struct{ ends, madeUp, lost int }

func countLogged(name string) (n logged, err error) {
	text, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return n, nil
	}
	for line := range bytes.Lines(text) {
		var lost int
		switch {
		case bytes.HasPrefix(line, []byte(`{"event":"lost"`)):
			_, rest, _ := bytes.Cut(line, []byte(`"messages":`))
			fmt.Sscanf(string(rest), "%d", &lost)
			n.lost += lost
		case bytes.Contains(line, []byte(`"event":"new"`)) || bytes.Contains(line, []byte(`"event":"update"`)):
		default:
			n.ends++
			if bytes.Contains(line, []byte(`"origin":"made_up"`)) {
				n.madeUp++
			}
		}
	}
	return n, err
}

// sink is an IPFIX collector that counts data records.
type sink struct {
	conn    *net.UDPConn
	port    int
	records atomic.Uint64
	reader  sync.WaitGroup
}

func newSink(ns *namespace) (*sink, error) {
	s := &sink{}
	if err := ns.do(func() (err error) {
		s.conn, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		return err
	}); err != nil {
		return nil, err
	}
	if raw, err := s.conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20) })
	}
	s.port = s.conn.LocalAddr().(*net.UDPAddr).Port
	s.reader.Go(s.run)
	return s, nil
}

func (s *sink) close() { s.conn.Close(); s.reader.Wait() }

// run counts the records of data sets by the sizes in their templates (RFC 7011, section 3).
func (s *sink) run() {
	sizes := map[uint16]int{}
	b := make([]byte, 1<<16)
	be := binary.BigEndian
	for {
		n, err := s.conn.Read(b)
		if err != nil {
			return
		}
		for m := b[min(16, n):n]; len(m) >= 4; {
			id, length := be.Uint16(m), int(be.Uint16(m[2:]))
			if length < 4 || length > len(m) {
				break
			}
			set := m[4:length]
			m = m[length:]
			switch {
			case id == 2:
				for len(set) >= 4 {
					template, fields, size := be.Uint16(set), int(be.Uint16(set[2:])), 0
					set = set[4:]
					for ; fields > 0 && len(set) >= 4; fields-- {
						size += int(be.Uint16(set[2:]))
						skip := 4
						if be.Uint16(set)&0x8000 != 0 {
							skip = 8
						}
						set = set[min(skip, len(set)):]
					}
					sizes[template] = size
				}
			case sizes[id] > 0:
				s.records.Add(uint64(len(set) / sizes[id]))
			}
		}
	}
}
