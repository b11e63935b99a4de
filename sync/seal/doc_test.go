package seal

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
)

var exampleBytes = regexp.MustCompile(`^(?:[0-9a-f]{2} )*[0-9a-f]{2}(?:$|  )`)

// The sealed datagram in docs/sync-protocol.md opens with the example's key, and has the payload
// of the plain one.
func TestDescriptionHasAGoodSeal(t *testing.T) {
	text, err := os.ReadFile("../../docs/sync-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	var datagrams [][]byte
	for _, block := range strings.Split(string(text), "```datagram\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		var b []byte
		for line := range strings.Lines(block) {
			digits, err := hex.DecodeString(strings.ReplaceAll(exampleBytes.FindString(strings.TrimRight(line, "\n")), " ", ""))
			if err != nil || len(digits) == 0 {
				t.Fatalf("no bytes in %q", line)
			}
			b = append(b, digits...)
		}
		datagrams = append(datagrams, b)
	}
	if len(datagrams) != 2 || !strings.Contains(string(text), ExampleKey) {
		t.Fatalf("%d datagrams", len(datagrams))
	}
	key, err := base64.StdEncoding.DecodeString(ExampleKey)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewRing("edge", map[uint8][KeyLen]byte{1: [KeyLen]byte(key)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	plain, sealed := datagrams[0], datagrams[1]
	h, ok := ParseHeader(sealed)
	p, okPlain := ParseHeader(plain)
	if !ok || !okPlain || h.Kind != Sealed || p.Kind != Plain || h.Counter != p.Counter || h.Boot != p.Boot {
		t.Fatalf("%+v, %+v", h, p)
	}
	s := NewSession(0, Config{Node: 2, Peers: []uint8{1}, Ring: ring, Random: seeded(1)})
	payload, v := s.open(s.config.Ring.cipherOf(h.Key, &h.Boot), &h, nil, sealed)
	if v != Accepted || string(payload) != string(plain[HeaderLen:]) {
		t.Errorf("%v: % x, want % x", v, payload, plain[HeaderLen:])
	}
}
