package wire

import (
	"bytes"
	"slices"
	"testing"
)

func TestMessagesArePackedToTheCapacity(t *testing.T) {
	for _, c := range []struct {
		name     string
		capacity int
		messages []int // their lengths
		want     []int // the datagrams' lengths
	}{
		{"none", 100, nil, nil},
		{"one", 100, []int{60}, []int{60}},
		{"to the last byte", 100, []int{60, 40, 1}, []int{100, 1}},
		{"one too many", 100, []int{60, 41, 59}, []int{60, 100}},
		{"longer than a datagram", 100, []int{101, 20, 300, 20}, []int{101, 20, 300, 20}},
		{"MTU 1500", 1472, slices.Repeat([]int{84}, 20), []int{17 * 84, 3 * 84}},
		{"nothing appended", 100, []int{60, 0, 0, 60, 0}, []int{60, 60}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewPacker(1)
			p.SetCapacity(c.capacity)
			for range 2 { // the second time in the first one's memory
				p.Reset()
				var all []byte
				for i, n := range c.messages {
					m := bytes.Repeat([]byte{byte(i)}, n)
					all = append(all, m...)
					p.Add(append(p.Buffer(), m...))
				}
				var got []int
				var joined []byte
				for i := range p.Datagrams() {
					got = append(got, len(p.Datagram(i)))
					joined = append(joined, p.Datagram(i)...)
				}
				if !slices.Equal(got, c.want) || !bytes.Equal(joined, all) || !bytes.Equal(p.Bytes(), all) {
					t.Errorf("datagrams of %v, want %v", got, c.want)
				}
			}
			p.Reset()
			if n := p.Datagrams(); n != 0 || len(p.Bytes()) != 0 {
				t.Errorf("%d datagrams of %d bytes after Reset", n, len(p.Bytes()))
			}
		})
	}
}

// A whole datagram shares none with the messages before and after it, however short it is.
func TestWholeDatagrams(t *testing.T) {
	p := NewPacker(100)
	for range 2 {
		p.Reset()
		for _, m := range []struct {
			length int
			whole  bool
		}{{20, true}, {30, true}, {0, true}, {10, false}, {11, false}, {120, true}, {15, false}} {
			add := p.Add
			if m.whole {
				add = p.AddWhole
			}
			add(append(p.Buffer(), make([]byte, m.length)...))
		}
		var got []int
		for i := range p.Datagrams() {
			got = append(got, len(p.Datagram(i)))
		}
		if want := []int{20, 30, 21, 120, 15}; !slices.Equal(got, want) {
			t.Errorf("datagrams of %v, want %v", got, want)
		}
	}
}
