package export

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// relay passes the datagrams of an exporter on to collectors, whose receive buffers hold little
// of a burst: it waits until a collector has read what it has. It decodes them, too, and writes
// them to a file in the format of libpcap.
type relay struct {
	d          decoder
	h          *host
	conn       *net.UDPConn
	address    netip.AddrPort
	collectors []*net.UDPConn
	ports      []int
	pcap       *bufio.Writer
	reader     sync.WaitGroup

	mu    sync.Mutex
	all   []map[string]string
	wrong error
}

func newRelay(h *host, pcap string, ports ...int) *relay {
	h.t.Helper()
	r := &relay{h: h, ports: ports}
	file, err := os.Create(pcap)
	if err != nil {
		h.t.Fatal(err)
	}
	r.pcap = bufio.NewWriter(file)
	const ethernet = 1
	for _, field := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint64(0), uint32(1 << 16), uint32(ethernet)} {
		binary.Write(r.pcap, binary.LittleEndian, field)
	}
	h.Do(func() {
		if r.conn, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			return
		}
		for _, port := range ports {
			var c *net.UDPConn
			if c, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err != nil {
				return
			}
			r.collectors = append(r.collectors, c)
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
	force(r.conn, 64<<20)
	r.address = r.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	r.d.strict = true
	r.reader.Go(func() {
		defer file.Close()
		r.run()
	})
	h.t.Cleanup(func() { r.conn.Close(); r.reader.Wait() })
	return r
}

// force sets a receive buffer beyond net.core.rmem_max.
func force(c *net.UDPConn, size int) {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) })
	}
}

func (r *relay) run() {
	b := make([]byte, 1<<16)
	for n := 0; ; n++ {
		size, err := r.conn.Read(b)
		if err != nil {
			r.pcap.Flush()
			return
		}
		message := b[:size]
		r.mu.Lock()
		records, err := r.d.decode(message)
		if err != nil && r.wrong == nil {
			r.wrong = err
		}
		r.all = append(r.all, records...)
		r.mu.Unlock()
		r.capture(n, message)
		for i, c := range r.collectors {
			if n%8 == 0 {
				for waiting(r.h, r.ports[i]) > 64<<10 {
					time.Sleep(time.Millisecond / 2) // the collector reads meanwhile
				}
			}
			c.Write(message)
		}
	}
}

// waiting returns how many bytes wait in the receive buffer of a UDP port.
func waiting(h *host, port int) (n int) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(h.pid) + "/net/udp")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			_, queue, _ := strings.Cut(fields[4], ":")
			v, _ := strconv.ParseUint(queue, 16, 64)
			n += int(v)
		}
	}
	return n
}

// capture writes a datagram as a packet.
func (r *relay) capture(n int, payload []byte) {
	const headers = 14 + 20 + 8
	var b []byte
	b = binary.LittleEndian.AppendUint32(b, 1700000000+uint32(n/1000))
	b = binary.LittleEndian.AppendUint32(b, uint32(n%1000*1000))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)+headers))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)+headers))
	b = append(b, make([]byte, 12)...)
	b = append(b, 8, 0, 0x45, 0)
	b = be.AppendUint16(b, uint16(len(payload)+28))
	b = append(b, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
	b = be.AppendUint16(b, 40000)
	b = be.AppendUint16(b, 4739)
	b = be.AppendUint16(b, uint16(len(payload)+8))
	b = append(b, 0, 0)
	r.pcap.Write(append(b, payload...))
}

// records returns what was decoded, and fails the test for what could not be.
func (r *relay) records() []map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrong != nil {
		r.h.t.Error(r.wrong)
	}
	return r.all
}

// row is a record as all collectors should see it. What a collector does not have is empty.
type row struct {
	what                     string // "begin", "end" or "flow"
	proto                    uint8
	src, dst, srcN, dstN     string
	sport, dport, sportN     uint16
	dportN                   uint16
	icmp                     uint16 // type and code, of flows
	zoneO, zoneR             uint16
	id                       uint32
	packets, bytes, rpk, rby uint64
	reason                   uint8
}

// rows returns the records that a flow of the kernel's table leads to.
func rows(f *ctnetlink.Flow) (all []row) {
	a := func(t *ctnetlink.Tuple, a *ctnetlink.Addr) string { return string(format.AppendAddr(nil, t.Family, a)) }
	r := row{
		proto: f.Orig.Proto, src: a(&f.Orig, &f.Orig.Src), dst: a(&f.Orig, &f.Orig.Dst), srcN: a(&f.Reply, &f.Reply.Dst), dstN: a(&f.Reply, &f.Reply.Src),
		sport: f.Orig.SrcPort, dport: f.Orig.DstPort, sportN: f.Reply.DstPort, dportN: f.Reply.SrcPort,
		zoneO: f.Orig.Zone, zoneR: f.Reply.Zone,
	}
	if ctnetlink.IsICMP(r.proto) {
		r.sport, r.sportN = f.Orig.ICMPID, f.Reply.ICMPID
	}
	if f.Has&ctnetlink.HasZone != 0 {
		r.zoneO, r.zoneR = f.Zone, f.Zone
	}
	translated := r.src != r.srcN || r.dst != r.dstN || r.sport != r.sportN || r.dport != r.dportN
	if translated {
		r.what = "begin"
		all = append(all, r)
		r.what = "end"
		all = append(all, r)
	} else {
		r.srcN, r.dstN, r.sportN, r.dportN = "", "", 0, 0
	}
	r.what, r.reason, r.id = "flow", uint8(ForcedEnd), f.ID
	if ctnetlink.IsICMP(r.proto) {
		r.icmp = uint16(f.Orig.ICMPType)<<8 | uint16(f.Orig.ICMPCode)
	}
	r.packets, r.bytes, r.rpk, r.rby = f.CountersOrig.Packets, f.CountersOrig.Bytes, f.CountersReply.Packets, f.CountersReply.Bytes
	return append(all, r)
}

// compare fails the test unless a collector has what it should, apart from what without clears.
func compare(t *testing.T, collector string, want, got []row, without func(*row)) {
	t.Helper()
	text := func(rows []row) (all []string) {
		for _, r := range rows {
			without(&r)
			all = append(all, fmt.Sprintf("%+v", r))
		}
		slices.Sort(all)
		return all
	}
	if w, g := text(want), text(got); !slices.Equal(w, g) {
		t.Errorf("%s: %s", collector, firstDifference(w, g))
	}
}

func nothing(*row) {}

// decoded returns a record as IPFIX elements.
func decoded(e map[string]string) row {
	number := func(id string) uint64 { n, _ := strconv.ParseUint(e[id], 16, 64); return n }
	address := func(ids ...string) string {
		for _, id := range ids {
			if h := e[id]; h != "" {
				b := make([]byte, len(h)/2)
				fmt.Sscanf(h, "%x", &b)
				a, _ := netip.AddrFromSlice(b)
				return a.String()
			}
		}
		return ""
	}
	r := row{
		what: map[string]string{"04": "begin", "05": "end", "": "flow"}[e["230"]], proto: uint8(number("4")),
		src: address("8", "27"), dst: address("12", "28"), srcN: address("225", "281"), dstN: address("226", "282"),
		sport: uint16(number("7")), dport: uint16(number("11")), sportN: uint16(number("227")), dportN: uint16(number("228")),
		icmp: uint16(number("32") + number("139")), zoneO: uint16(number("234")), zoneR: uint16(number("235")), id: uint32(number("148")),
		packets: number("86"), bytes: number("85"), rpk: number("29305/86"), rby: number("29305/85"), reason: uint8(number("136")),
	}
	return r
}

// stream writes what an exporter sends over TCP to a file.
func (h *host) stream(name string) (address netip.AddrPort, end func()) {
	h.t.Helper()
	var l net.Listener
	h.Do(func() {
		var err error
		if l, err = net.Listen("tcp", "[::1]:0"); err != nil {
			h.t.Fatal(err)
		}
	})
	file, err := os.Create(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		defer file.Close()
		c, err := l.Accept()
		if err == nil {
			io.Copy(file, c)
			c.Close()
		}
	})
	h.t.Cleanup(func() { l.Close(); reader.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort(), reader.Wait
}

// traffic sends packets of real flows, which have counters: UDP to an echo, and ICMP.
func (h *host) traffic(n int) {
	h.t.Helper()
	h.NFT(`table ip nat { chain pre { type nat hook output priority -100; udp dport 7777 ip daddr 127.0.0.3 dnat to 127.0.0.2; }
		chain post { type nat hook postrouting priority 100; udp dport 7777 ip saddr 127.0.0.4 snat to 127.0.0.5:20000-60000; }; }`)
	h.Do(func() {
		echo, err := net.ListenPacket("udp", "127.0.0.2:7777")
		if err != nil {
			h.t.Fatal(err)
		}
		defer echo.Close()
		go func() {
			b := make([]byte, 2000)
			for {
				size, from, err := echo.ReadFrom(b)
				if err != nil {
					return
				}
				echo.WriteTo(b[:size], from)
			}
		}()
		b := make([]byte, 2000)
		for i := range n {
			from := &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(4+i%2))}
			c, err := net.DialUDP("udp", from, &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%2)), Port: 7777})
			if err != nil {
				h.t.Fatal(err)
			}
			for range 1 + i%3 {
				if _, err := c.Write(b[:100+i]); err != nil {
					h.t.Fatal(err)
				}
				if _, err := c.Read(b); err != nil {
					h.t.Fatal(err)
				}
			}
			c.Close()
		}
	})
}

var flows = flag.Int("export.flows", 2000, "how many flows the collectors are sent")

const (
	nfcapdPort  = 19995
	nfacctdPort = 19996
)

// collectors starts nfcapd and nfacctd.
func (h *host) collectors() (stop func()) {
	h.t.Helper()
	for _, dir := range []string{"nf", "pm"} {
		if err := os.Mkdir(h.path(dir), 0o777); err != nil {
			h.t.Fatal(err)
		}
	}
	config := `daemonize: false
plugins: print[nat], print[flow]
nfacctd_port: ` + strconv.Itoa(nfacctdPort) + `
nfacctd_ip: 127.0.0.1
nfacctd_time_new: false

plugin_pipe_size: 102400000
aggregate[nat]: src_host, dst_host, post_nat_src_host, post_nat_dst_host, src_port, dst_port, post_nat_src_port, post_nat_dst_port, proto, nat_event
aggregate[flow]: src_host, dst_host, src_port, dst_port, proto
print_output: json
print_refresh_time: 1
print_output_file[nat]: ` + h.path("pm/nat") + `
print_output_file[flow]: ` + h.path("pm/flow") + `
print_output_file_append: true
`
	if err := os.WriteFile(h.path("pm/conf"), []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	pm := h.Start("nfacctd", "-f", h.path("pm/conf"))
	nf := h.startNfcapd()
	h.pid = nf.Pid()
	for _, port := range []int{nfcapdPort, nfacctdPort} {
		h.listening(port)
	}
	return func() {
		h.t.Helper()
		nf.Stop(syscall.SIGTERM)
		if text := nf.Stdout.String() + nf.Stderr.String(); !strings.Contains(text, "Bad Packets: 0") {
			h.t.Errorf("nfcapd: %s", text)
		}
		// It does not count options data records, which are of domain 0.
		if text := h.Must("nfdump", "-E", h.lastOf("nf")); !regexp.MustCompile(`ID: +7, Sequence failures: 0,`).MatchString(text) {
			h.t.Errorf("nfdump -E: %s", text)
		}
		// Its plugins are processes of their own, which end by the same signal.
		pm.Stop(syscall.SIGINT)
		if text := pm.Stdout.String() + pm.Stderr.String(); strings.Contains(text, "malformed") || strings.Contains(text, "WARN") || strings.Contains(text, "ERROR") {
			h.t.Errorf("nfacctd: %s", text)
		}
	}
}

func (h *host) startNfcapd() *netnstest.Process {
	h.t.Helper()
	return h.Start("nfcapd", "-w", h.path("nf"), "-p", strconv.Itoa(nfcapdPort), "-b", "127.0.0.1", "-t", "3600", "-B", "1000000")
}

// lastOf returns the last file of a directory.
func (h *host) lastOf(dir string) string {
	h.t.Helper()
	all, err := os.ReadDir(h.path(dir))
	if err != nil || len(all) == 0 {
		h.t.Fatalf("%d files, %v", len(all), err)
	}
	return h.path(dir + "/" + all[len(all)-1].Name())
}

// listening waits until a UDP port is bound.
func (h *host) listening(port int) {
	h.t.Helper()
	netnstest.Eventually(h.t, deadline, "a collector listens", func() bool {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(h.pid) + "/net/udp")
		return strings.Contains(string(b), fmt.Sprintf(":%04X 00000000:0000", port))
	})
}

// nfdump returns the records of nfcapd. It has no zones and ids, and no translated IPv6
// addresses.
func (h *host) nfdump() (all []row) {
	h.t.Helper()
	cmd := h.Command("nfdump", "-R", h.path("nf"), "-o", "raw", "-q")
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var r *row
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "Flow Record") {
			all = append(all, row{what: "flow"})
			r = &all[len(all)-1]
			continue
		}
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok || r == nil {
			continue
		}
		value = strings.TrimSpace(value)
		word, _, _ := strings.Cut(value, " ")
		n, _ := strconv.ParseUint(strings.TrimSuffix(word, ":"), 10, 64)
		switch strings.TrimSpace(name) {
		case "proto":
			r.proto = uint8(n)
		case "src port":
			r.sport = uint16(n)
		case "dst port":
			r.dport = uint16(n)
		case "src addr":
			r.src = value
		case "dst addr":
			r.dst = value
		case "src xlt ip":
			r.srcN = value
		case "dst xlt ip":
			r.dstN = value
		case "src xlt port":
			r.sportN = uint16(n)
		case "dst xlt port":
			r.dportN = uint16(n)
		case "ingress VRF":
			r.zoneO = uint16(n)
		case "egress VRF":
			r.zoneR = uint16(n)
		case "nat event":
			r.what = map[uint64]string{4: "begin", 5: "end"}[n]
		case "in packets":
			r.packets = n
		case "in bytes":
			r.bytes = n
		case "out packets":
			r.rpk = n
		case "out bytes":
			r.rby = n
		case "ICMP":
			kind, code, _ := strings.Cut(word, ".")
			k, _ := strconv.Atoi(kind)
			c, _ := strconv.Atoi(code)
			r.icmp, r.sport = uint16(k)<<8|uint16(c), uint16(c)<<8|uint16(k)
		case "end reason":
			v, _ := strconv.ParseUint(strings.TrimPrefix(word, "0x"), 16, 8)
			r.reason = uint8(v)
		}
	}
	if err := cmd.Wait(); err != nil {
		h.t.Errorf("nfdump: %v", err)
	}
	return all
}

// nfacctd returns the records that its plugins have printed.
func (h *host) nfacctd(file string) (all []row) {
	h.t.Helper()
	f, err := os.Open(h.path("pm/" + file))
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var p struct {
			Src   string `json:"ip_src"`
			Dst   string `json:"ip_dst"`
			SrcN  string `json:"post_nat_ip_src"`
			DstN  string `json:"post_nat_ip_dst"`
			SP    uint16 `json:"port_src"`
			DP    uint16 `json:"port_dst"`
			SPN   uint16 `json:"post_nat_port_src"`
			DPN   uint16 `json:"post_nat_port_dst"`
			Proto string `json:"ip_proto"`
			Event int    `json:"nat_event"`

			Packets, Bytes uint64
		}
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return all // it is being written
		}
		proto := map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58}[p.Proto]
		all = append(all, row{
			what: map[int]string{4: "begin", 5: "end", 0: "flow"}[p.Event], proto: proto, src: p.Src, dst: p.Dst, srcN: p.SrcN, dstN: p.DstN,
			sport: p.SP, dport: p.DP, sportN: p.SPN, dportN: p.DPN, packets: p.Packets, bytes: p.Bytes,
		})
	}
	return all
}

// dumped is a field of a record as ipfixDump prints it.
var dumped = regexp.MustCompile(`^\t\(([0-9/]+)\)(?: \(S\))? +\w+ : (.*)$`)

// ipfixDump returns the records of an IPFIX file, as libfixbuf decodes them.
func (h *host) ipfixDump(file string) (all []row) {
	h.t.Helper()
	r := h.Run("", "ipfixDump", "-d", "-i", h.path(file))
	if r.Code != 0 || r.Stderr != "" {
		h.t.Errorf("ipfixDump: status %d, %s", r.Code, r.Stderr)
	}
	fields := map[string]string{}
	end := func() {
		if fields["4"] != "" {
			all = append(all, dumpedRow(fields))
		}
		clear(fields)
	}
	for line := range strings.Lines(r.Stdout) {
		if m := dumped.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			fields[m[1]] = m[2]
		} else if strings.HasPrefix(line, "--- data record") {
			end()
		}
	}
	end()
	return all
}

func dumpedRow(e map[string]string) row {
	number := func(id string) uint64 { n, _ := strconv.ParseUint(e[id], 10, 64); return n }
	address := func(ids ...string) string {
		for _, id := range ids {
			if a, err := netip.ParseAddr(e[id]); err == nil {
				return a.String()
			}
		}
		return ""
	}
	return row{
		what: map[string]string{"4": "begin", "5": "end", "": "flow"}[e["230"]], proto: uint8(number("4")),
		src: address("8", "27"), dst: address("12", "28"), srcN: address("225", "281"), dstN: address("226", "282"),
		sport: uint16(number("7")), dport: uint16(number("11")), sportN: uint16(number("227")), dportN: uint16(number("228")),
		icmp: uint16(number("32") + number("139")), zoneO: uint16(number("234")), zoneR: uint16(number("235")), id: uint32(number("148")),
		packets: number("86"), bytes: number("85"), rpk: number("29305/86"), rby: number("29305/85"), reason: uint8(number("136")),
	}
}

// tshark returns the values of each of the fields.
func (h *host) tshark(file string, fields ...string) map[string][]string {
	h.t.Helper()
	decode := []string{"-r", h.path(file), "-d", "udp.port==4739,cflow"}
	expert := h.Run("", "tshark", append(decode, "-Y", "_ws.expert.severity >= 0x400000 || _ws.malformed", "-T", "fields", "-e", "frame.number", "-e", "_ws.expert.message")...)
	if expert.Code != 0 || expert.Stdout != "" {
		h.t.Errorf("tshark: status %d, %.1000s", expert.Code, expert.Stdout)
	}
	args := append(decode, "-T", "fields", "-E", "separator=/t", "-E", "aggregator=,")
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	values := map[string][]string{}
	for line := range strings.Lines(h.Must("tshark", args...)) {
		for i, cell := range strings.Split(strings.TrimSuffix(line, "\n"), "\t") {
			if cell != "" && i < len(fields) {
				values[fields[i]] = append(values[fields[i]], strings.Split(cell, ",")...)
			}
		}
	}
	return values
}

// Every collector has each record of each flow, as the kernel's table has it, without a
// sequence error or a malformed message.
func TestCollectors(t *testing.T) {
	h := newHost(t)
	all := *flows
	if netnstest.Long {
		all *= 5
	}
	stop := h.collectors()
	r := newRelay(h, h.path("pcap"), nfcapdPort, nfacctdPort)
	tcpAt, tcpEnds := h.stream("ipfix")
	clause := func(at netip.AddrPort, transport string) string {
		return fmt.Sprintf("Export ipfix {\n Collector %s\n Port %d\n Transport %s\n Domain 7\n Records { nat flow }\n QueueLimit 2000000\n}\n", at.Addr(), at.Port(), transport)
	}
	// A flow of the daemon's own is tracked as well, and does not pass the filter.
	filter := " Filter {\n  Address Ignore {\n   IPv4_address 127.0.0.1\n   IPv6_address ::1\n  }\n }\n}\n"
	p := h.start("", strings.TrimSuffix(clause(r.address, "udp"), "}\n")+filter+strings.TrimSuffix(clause(tcpAt, "tcp"), "}\n")+filter)
	h.create(all, mixed)
	const real = 60
	h.traffic(real)
	h.await("all flows", func(e *exported) bool { return e.FlowsNow == uint64(all+real) })
	table := slices.DeleteFunc(h.table(), func(f ctnetlink.Flow) bool {
		return f.Orig.Src == addr("127.0.0.1") || f.Orig.Src == addr("::1")
	})
	var want []row
	for i := range table {
		want = append(want, rows(&table[i])...)
	}
	h.change(ctnetlink.TypeFlowDelete, 0, 1, func(int) *ctnetlink.Flow { return &ctnetlink.Flow{} })
	h.await("all records", func(e *exported) bool { return e.Sent == uint64(len(want)) })
	netnstest.Eventually(t, 4*deadline, "the collectors have all", func() bool {
		return len(r.flows()) == len(want) && waiting(h, nfcapdPort) == 0 && waiting(h, nfacctdPort) == 0
	})
	var nat []row
	netnstest.Eventually(t, 4*deadline, "nfacctd has written all", func() bool {
		nat = h.nfacctd("nat")
		return len(nat) >= len(want)
	})

	p.Stop(syscall.SIGTERM)
	tcpEnds()
	stop()
	r.conn.Close()
	r.reader.Wait()

	compare(t, "decoder", want, r.flows(), nothing)
	compare(t, "nfcapd", want, h.nfdump(), func(r *row) {
		r.id = 0
		// It has one field for the ports of ICMP: the id, or type and code.
		if ctnetlink.IsICMP(r.proto) && r.what == "flow" {
			r.sport = 0
		} else {
			r.icmp = 0
		}
		if strings.Contains(r.src, ":") {
			r.srcN, r.dstN = "", ""
		}
	})
	compare(t, "nfacctd", want, nat, func(r *row) {
		r.icmp, r.zoneO, r.zoneR, r.id, r.reason, r.rpk, r.rby = 0, 0, 0, 0, 0, 0, 0
		if strings.Contains(r.src, ":") {
			r.srcN, r.dstN = "", ""
		}
	})
	compare(t, "ipfixDump", want, h.ipfixDump("ipfix"), nothing)
	h.compareTshark(want)
}

// compareTshark fails the test unless tshark has the same values of each field as the records.
func (h *host) compareTshark(want []row) {
	h.t.Helper()
	if len(want) > 20_000 {
		return // it takes a minute for them
	}
	v6 := func(r *row) bool { return strings.Contains(r.src, ":") }
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	columns := map[string]func(r *row) string{
		"cflow.srcaddr":                           func(r *row) string { return unless(v6(r), r.src) },
		"cflow.dstaddr":                           func(r *row) string { return unless(v6(r), r.dst) },
		"cflow.srcaddrv6":                         func(r *row) string { return unless(!v6(r), r.src) },
		"cflow.dstaddrv6":                         func(r *row) string { return unless(!v6(r), r.dst) },
		"cflow.post_natsource_ipv4_address":       func(r *row) string { return unless(v6(r), r.srcN) },
		"cflow.post_natdestination_ipv4_address":  func(r *row) string { return unless(v6(r), r.dstN) },
		"cflow.post_nat_source_ipv6_address":      func(r *row) string { return unless(!v6(r), r.srcN) },
		"cflow.post_nat_destination_ipv6_address": func(r *row) string { return unless(!v6(r), r.dstN) },
		"cflow.srcport":                           func(r *row) string { return number(uint64(r.sport)) },
		"cflow.post_naptsource_transport_port":    func(r *row) string { return unless(r.srcN == "", number(uint64(r.sportN))) },
		"cflow.protocol":                          func(r *row) string { return number(uint64(r.proto)) },
		"cflow.nat_event":                         func(r *row) string { return map[string]string{"begin": "4", "end": "5"}[r.what] },
		"cflow.flow_id":                           func(r *row) string { return unless(r.what != "flow", number(uint64(r.id))) },
		"cflow.flow_end_reason":                   func(r *row) string { return unless(r.what != "flow", number(uint64(r.reason))) },
		"cflow.ingress_vrfid":                     func(r *row) string { return unless(r.zoneO|r.zoneR == 0, number(uint64(r.zoneO))) },
		"cflow.egress_vrfid":                      func(r *row) string { return unless(r.zoneO|r.zoneR == 0, number(uint64(r.zoneR))) },
	}
	names := slices.Sorted(maps.Keys(columns))
	got := h.tshark("pcap", names...)
	for _, name := range names {
		var values []string
		for i := range want {
			if v := columns[name](&want[i]); v != "" {
				values = append(values, v)
			}
		}
		slices.Sort(values)
		slices.Sort(got[name])
		if !slices.Equal(values, got[name]) {
			h.t.Errorf("tshark, %s: %s", name, firstDifference(values, got[name]))
		}
	}
}

func unless(not bool, text string) string {
	if not {
		return ""
	}
	return text
}

// A collector that is restarted in the middle has no templates, and nobody notices: the datagrams
// still arrive. After TemplateRefresh it decodes again.
func TestCollectorIsRestarted(t *testing.T) {
	h := newHost(t)
	if err := os.Mkdir(h.path("nf"), 0o777); err != nil {
		t.Fatal(err)
	}
	first := h.startNfcapd()
	h.pid = first.Pid()
	h.listening(nfcapdPort)
	r := newRelay(h, h.path("pcap"), nfcapdPort)
	p := h.start("", fmt.Sprintf("Export ipfix {\n Collector %s\n Port %d\n Records nat\n TemplateRefresh 1\n Filter {\n  Address Ignore {\n   IPv4_address 127.0.0.0/8\n  }\n }\n}\n",
		r.address.Addr(), r.address.Port()))
	translated := func(i int) *ctnetlink.Flow { return mixed(60*(i/10) + []int{1, 3, 6, 7, 10, 13, 15, 18, 19, 21}[i%10]) } // IPv4, SNAT, DNAT or both
	records := func(n int) {
		t.Helper()
		netnstest.Eventually(t, deadline, "the relay has the records", func() bool { return len(r.flows()) == n && waiting(h, nfcapdPort) == 0 })
	}
	h.create(100, translated)
	records(100)
	first.Stop(syscall.SIGTERM)
	second := h.startNfcapd()
	h.pid = second.Pid()
	h.listening(nfcapdPort)
	before := r.templates()
	netnstest.Eventually(t, deadline, "the templates come again", func() bool { return r.templates() > before+1 && waiting(h, nfcapdPort) == 0 })
	h.create(100, func(i int) *ctnetlink.Flow { return translated(i + 100) })
	records(200)
	p.Stop(syscall.SIGTERM)
	second.Stop(syscall.SIGTERM)
	if text := second.Stdout.String() + second.Stderr.String(); !strings.Contains(text, "Flows: 100,") || !strings.Contains(text, "Bad Packets: 0") {
		t.Errorf("nfcapd: %s", text)
	}
	var want []row
	table := h.table()
	for i := range table {
		all := rows(&table[i])
		if all[0].what == "begin" {
			want = append(want, all[0])
		}
	}
	got := slices.DeleteFunc(h.nfdump(), func(r row) bool { return r.what != "begin" })
	compare(t, "nfcapd", want, got, func(r *row) {
		r.id, r.icmp = 0, 0
	})
}

// templates returns how many templates have come.
func (r *relay) templates() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.d.seen
}

// flows returns the records without the statistics.
func (r *relay) flows() (all []row) {
	for _, e := range r.records() {
		if e["149"] == "" {
			all = append(all, decoded(e))
		}
	}
	return all
}
