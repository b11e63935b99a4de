//go:build goflow2

package export

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

const goflow2Port = 19997

// goflow2Mapping adds to goflow2's records what it does not have.
const goflow2Mapping = `formatter:
  fields: [type, bytes, packets, src_addr, dst_addr, proto, src_port, dst_port, ingress_vrf_id, egress_vrf_id, nat_event, nat_src, nat_dst, nat_sport, nat_dport, flow_id, reason]
  protobuf:
    - {name: ingress_vrf_id, index: 101, type: varint}
    - {name: egress_vrf_id, index: 102, type: varint}
    - {name: nat_event, index: 103, type: varint}
    - {name: nat_src, index: 104, type: string}
    - {name: nat_dst, index: 105, type: string}
    - {name: nat_sport, index: 106, type: varint}
    - {name: nat_dport, index: 107, type: varint}
    - {name: flow_id, index: 108, type: varint}
    - {name: reason, index: 109, type: varint}
  render:
    nat_src: ip
    nat_dst: ip
ipfix:
  mapping:
    - {field: 234, destination: ingress_vrf_id}
    - {field: 235, destination: egress_vrf_id}
    - {field: 230, destination: nat_event}
    - {field: 225, destination: nat_src}
    - {field: 226, destination: nat_dst}
    - {field: 281, destination: nat_src}
    - {field: 282, destination: nat_dst}
    - {field: 227, destination: nat_sport}
    - {field: 228, destination: nat_dport}
    - {field: 148, destination: flow_id}
    - {field: 136, destination: reason}
    - {field: 85, destination: bytes}
    - {field: 86, destination: packets}
`

// goflow2 has each record of each flow. It is built by make test-goflow2: Debian has no package.
func TestGoflow2(t *testing.T) {
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tools, err := filepath.Glob(filepath.Join(root, "bin", "tools", "goflow2-*"))
	if err != nil || len(tools) == 0 {
		t.Fatal("bin/tools has no goflow2: run make test-goflow2")
	}
	h := newHost(t)
	if err := os.WriteFile(h.path("mapping"), []byte(goflow2Mapping), 0o600); err != nil {
		t.Fatal(err)
	}
	collector := h.Start(tools[0], "-listen", fmt.Sprintf("netflow://127.0.0.1:%d?count=1&workers=1", goflow2Port), "-mapping", h.path("mapping"),
		"-transport.file", h.path("out"), "-addr", "127.0.0.1:0")
	h.pid = collector.Pid()
	h.listening(goflow2Port)
	r := newRelay(h, h.path("pcap"), goflow2Port)
	const all = 2000
	p := h.start("", fmt.Sprintf("Export ipfix {\n Collector %s\n Port %d\n Records { nat flow }\n Filter {\n  Address Ignore {\n   IPv4_address 127.0.0.0/8\n  }\n }\n}\n",
		r.address.Addr(), r.address.Port()))
	h.create(all, mixed)
	h.await("all flows", func(e *exported) bool { return e.FlowsNow == all })
	var want []row
	table := h.table()
	for i := range table {
		if table[i].Orig.Src == addr("127.0.0.1") { // the exporter's own
			continue
		}
		want = append(want, rows(&table[i])...)
	}
	h.delete(all, mixed)
	var got []row
	netnstest.Eventually(t, deadline, "goflow2 has all", func() bool {
		got = h.goflow2()
		return len(got) >= len(want)
	})
	p.Stop(syscall.SIGTERM)
	collector.Stop(syscall.SIGTERM)
	if text := collector.Stderr.String() + collector.Stdout.String(); strings.Contains(text, "error") {
		t.Errorf("goflow2: %.1000s", text)
	}
	compare(t, "goflow2", want, got, func(r *row) {
		r.rpk, r.rby, r.icmp = 0, 0, 0
		if ctnetlink.IsICMP(r.proto) {
			r.sport, r.dport = 0, 0
		}
	})
}

func (h *host) goflow2() (all []row) {
	h.t.Helper()
	f, err := os.Open(h.path("out"))
	if err != nil {
		return nil
	}
	defer f.Close()
	objects := json.NewDecoder(bufio.NewReader(f)) // several goroutines write them, and their line breaks
	for {
		var g struct {
			Type    string
			Bytes   uint64
			Packets uint64
			Src     string `json:"src_addr"`
			Dst     string `json:"dst_addr"`
			Proto   string
			SP      uint16 `json:"src_port"`
			DP      uint16 `json:"dst_port"`
			ZoneO   uint16 `json:"ingress_vrf_id"`
			ZoneR   uint16 `json:"egress_vrf_id"`
			Event   int    `json:"nat_event"`
			SrcN    string `json:"nat_src"`
			DstN    string `json:"nat_dst"`
			SPN     uint16 `json:"nat_sport"`
			DPN     uint16 `json:"nat_dport"`
			ID      uint32 `json:"flow_id"`
			Reason  uint8
		}
		if objects.Decode(&g) != nil {
			return all // the end, or an object that is being written
		}
		if g.Proto == "HOPOPT" || g.Src == "" {
			continue // statistics
		}
		proto := map[string]uint8{"TCP": 6, "UDP": 17, "ICMP": 1, "IPv6-ICMP": 58}[g.Proto]
		all = append(all, row{
			what: map[int]string{4: "begin", 5: "end", 0: "flow"}[g.Event], proto: proto, src: g.Src, dst: g.Dst, srcN: g.SrcN, dstN: g.DstN,
			sport: g.SP, dport: g.DP, sportN: g.SPN, dportN: g.DPN, zoneO: g.ZoneO, zoneR: g.ZoneR, id: g.ID,
			packets: g.Packets, bytes: g.Bytes, reason: g.Reason,
		})
	}
}
