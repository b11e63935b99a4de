package conf

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ctbox/helpers/builtin"
	"ctbox/helpers/helper"
	"ctbox/internal/gen"
	"ctbox/internal/seeds"
	"ctbox/nl"

	"github.com/google/go-cmp/cmp"
)

// roundTrip checks that both printed forms parse as the same Config, and that the shorter
// form is printed again unchanged and parses without a warning.
func roundTrip(t testing.TB, c *Config) {
	t.Helper()
	file := AppendConfig(nil, c)
	for _, printed := range [][]byte{file, AppendEffective(nil, c)} {
		again, warnings, err := Parse("printed", printed)
		if err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		for _, w := range warnings {
			// A link can mix address families; the first parse settled everything else.
			if !strings.HasPrefix(w.Text, "your multicast interface is IPv4") {
				t.Errorf("the printed file has a warning: %s\n%s", w, printed)
			}
		}
		if diff := cmp.Diff(c, again, sameConfig); diff != "" {
			t.Errorf("the printed file means something else:\n%s\n%s", diff, printed)
		}
		if second := AppendConfig(nil, again); string(second) != string(file) {
			t.Errorf("printed twice:\n%s\n%s", file, second)
		}
	}
}

func TestPrintedClauses(t *testing.T) {
	for _, tt := range clauseTests {
		c, _ := mustParse(t, tt.src)
		roundTrip(t, c)
	}
}

// TestExamples reads the files in testdata and compares them with the canonical files next
// to them; -update rewrites the canonical files.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c, warnings := mustParse(t, string(src))
		for _, w := range warnings {
			t.Errorf("%s: %s", name, w)
		}
		roundTrip(t, c)
		gen.File(t, strings.TrimSuffix(name, ".conf")+".canonical", AppendConfig(nil, c))
		gen.File(t, strings.TrimSuffix(name, ".conf")+".effective", AppendEffective(nil, c))
	}
}

// TestRandomConfigs builds files from random clauses of the table.
func TestRandomConfigs(t *testing.T) {
	for seed := range seeds.Count(2000) {
		src := randomFile(rand.New(rand.NewPCG(seed, 0)), true)
		c, _, err := Parse("random", []byte(src))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, src)
		}
		roundTrip(t, c)
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, src)
		}
	}
}

// randomFile returns a file that is accepted: each clause has operands for its keyword.
// With ours set it has clauses and helpers that conntrack-tools lacks, too.
func randomFile(r *rand.Rand, ours bool) string {
	helpers := builtin.All()
	if !ours {
		helpers = slices.DeleteFunc(helpers, func(h *helper.Helper) bool { return h.Ours })
	}
	sections := []string{"General", "Helper", []string{"Sync", "Stats"}[r.IntN(2)]}
	if ours {
		sections = append(sections, "Export ipfix", "Export json", "Export json")
	}
	transport := []string{"Multicast", "UDP", "TCP"}[r.IntN(3)]
	links := 0
	var file strings.Builder
	var body func(b *block)
	body = func(b *block) {
		for range r.IntN(2 * len(b.clauses)) {
			c := &b.clauses[r.IntN(len(b.clauses))]
			if c.ours && !ours || c.name == "Cluster" { // TestRandomClusters has files with Cluster
				continue
			}
			if slices.Contains([]string{"Multicast", "UDP", "TCP"}, c.name) && b.title != "Delay" {
				if links++; c.name != transport || links > MaxLinks {
					continue
				}
			}
			words := append([]string{c.name}, c.aliases...)
			file.WriteString(words[r.IntN(len(words))] + " ")
			if c.name == "Policy" { // applies to the Type of that name
				file.WriteString("ftp { ExpectMax 1 } Type ftp inet tcp { }\n")
				continue
			}
			n, ok := c.value.(nested)
			if !ok {
				file.WriteString(randomOperand(r, b, c) + "\n")
				continue
			}
			sub := n.blocks()[0]
			switch c.name {
			case "Mode":
				i := r.IntN(3)
				sub = n.blocks()[i]
				file.WriteString(modeNames[i])
			case "Filter":
				file.WriteString([]string{"", "From Userspace", "From Kernelspace"}[r.IntN(3)])
			case "Address":
				file.WriteString([]string{"Accept", "Ignore"}[r.IntN(2)])
			case transport:
				file.WriteString([]string{"", "Default"}[r.IntN(2)])
			case "Type":
				h := helpers[r.IntN(len(helpers))]
				family := map[uint8]string{nl.FamilyIPv4: " inet ", nl.FamilyIPv6: " inet6 "}[h.Families[r.IntN(len(h.Families))]]
				file.WriteString(h.Name + family)
				if slices.Contains(h.Protocols, protocolTCP) {
					file.WriteString("tcp { Policy " + h.Name + " { ExpectMax 7 } ")
				} else {
					file.WriteString("udp { ")
				}
				file.WriteString("QueueNum 5 }\n")
				continue
			}
			file.WriteString(" {\n")
			body(sub)
			file.WriteString("}\n")
		}
	}
	for _, name := range sections {
		if r.IntN(4) > 0 {
			file.WriteString(name + " {\n")
			name, _, _ = strings.Cut(name, " ")
			body(grammar.find(name).value.(nested).blocks()[0])
			file.WriteString("}\n")
		}
	}
	return file.String()
}

func randomOperand(r *rand.Rand, b *block, c *clause) string {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	switch v := c.value.(type) {
	case *number[uint32]:
		if v.min > 0 {
			return pick(strconv.FormatUint(v.min, 10), strconv.FormatUint(v.max, 10))
		}
		return pick("0", "1", "5", "99")
	case *number[uint16], *first[uint16], *first[uint32], *forNext:
		return pick("0", "1", "5", "99")
	case *seconds:
		if v.onOff {
			return pick("on", "off", "0", "7")
		}
		if v.max != 0 {
			return pick("0", "3", "3600")
		}
		return pick("1", "7", "2147483647")
	case *boolean:
		return pick("on", "off", "Yes", "nO")
	case *path:
		return pick("/a", "/b/c", "/d}e", "/f#g")
	case *logFile:
		return pick("/a", "on", "off")
	case *facility:
		return pick("on", "off", "daemon", "local5", "nosuch")
	case *listen:
		return pick("127.0.0.1:9107", "[::1]:9107", "[::]:1")
	case *logFormat:
		return pick("text", "JSON")
	case *scheduler:
		return pick("RR", "fifo")
	case *protocolFilter:
		return pick("Accept", "Ignore") + pick(" { }", " { TCP UDP }", " { gre 99 ospf }")
	case *stateFilter:
		return pick("Accept", "Ignore") + pick(" { }", " { CLOSE for TCP }", " { LISTEN SYN_SENT for TCP }")
	case *markFilter:
		return pick("Accept", "Ignore") + pick(" { }", " { 0x1/0xff 7 }", " { 0XFFFFFFFF 0/0 }")
	case *zoneFilter:
		return pick("Accept", "Ignore") + pick(" { }", " { 0 65535 }", " { 3 4 3 }")
	case *network:
		if v.six {
			return pick("::/0", "2001:db8::1", "2001:db8::/32", "2001:db8::1/64", "192.0.2.1")
		}
		return pick("0.0.0.0/0", "192.0.2.1", "192.0.2.0/24", "192.0.2.1/32", "192.0.2.256")
	case *address:
		if v.six {
			return pick("2001:db8::1", "ff08::1", "::", "192.0.2.1")
		}
		return pick("192.0.2.1", "225.0.0.50", "0.0.0.0", "1.2.3.4/5")
	case *several[netip.Prefix]:
		return pick("192.0.2.9", "198.51.100.0/24", "2001:db8::/32")
	case *several[netip.Addr]:
		return pick("192.0.2.9", "2001:db8::9")
	case *exportValue:
		return map[string]string{
			"ADDRESS": pick("192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9"), "/PATH | -": pick("/a", "-"), "udp | tcp": pick("udp", "TCP"),
			"nat | flow | { nat flow }": pick("nat", "flow", "{ flow nat }", "{ }"),
		}[v.form]
	case *interfaceName:
		return pick("sync0", "fe0", "eth0.100", "General")
	case *expectationSync:
		return pick("on", "off", "{ }", "{ ftp sip }")
	case *ignored:
		return map[string]string{"N": "5", "+N | -N": "-5", "ADDRESS": "::1", "on | off": "on"}[v.form]
	}
	panic("no operand for " + c.name + " in " + b.title)
}

func FuzzParse(f *testing.F) {
	for _, tt := range clauseTests {
		f.Add([]byte(tt.src))
	}
	for seed := range uint64(5) {
		f.Add([]byte(randomCluster(rand.New(rand.NewPCG(seed, 0)))))
	}
	files, _ := filepath.Glob("testdata/*.conf")
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, warnings, err := Parse("fuzz", src)
		// Each warning needs a clause, so the size of the file limits the number of warnings.
		if len(warnings) > len(src)+1 {
			t.Errorf("%d warnings for %d bytes", len(warnings), len(src))
		}
		for _, w := range warnings {
			if !w.Pos.IsValid() || w.Text == "" {
				t.Errorf("warning %q has no place or text", w)
			}
		}
		if err != nil {
			if text := err.Error(); strings.ContainsAny(text, "\n\r\x00") || len(text) > 1000 {
				t.Errorf("not one line: %q", text)
			}
			return
		}
		roundTrip(t, c)
	})
}

func BenchmarkParse(b *testing.B) {
	src, err := os.ReadFile("testdata/ftfw.conf")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Parse("x", src); err != nil {
			b.Fatal(err)
		}
	}
}
