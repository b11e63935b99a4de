package seal

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/internal/seeds"
)

// cluster is many sessions on a network that loses, repeats, delays and reorders datagrams, and
// an attacker who replays what was ever sent, and forges.
type cluster struct {
	t        *testing.T
	random   *rand.Rand
	seed     uint64
	now      time.Duration
	nodes    []*Session // by number less 1; nil while a node is down
	flight   []flying
	recorded []flying
	faults   bool
	parted   [MaxNode + 1]bool // this node hears nothing and is not heard

	sent     uint64
	accepted [MaxNode + 1]map[uint64]bool // payloads by receiver
	heard    [MaxNode + 1][MaxNode + 1]time.Duration
}

type flying struct {
	at       time.Duration
	from, to uint8
	datagram []byte
}

func newCluster(t *testing.T, seed uint64, count int) *cluster {
	c := &cluster{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 3)), nodes: make([]*Session, count)}
	for i := range c.accepted {
		c.accepted[i] = map[uint64]bool{}
	}
	for i := range c.nodes {
		c.start(i)
	}
	return c
}

func (c *cluster) start(i int) {
	var peers []uint8
	for k := range c.nodes {
		if k != i {
			peers = append(peers, uint8(k+1))
		}
	}
	c.nodes[i] = NewSession(c.now, Config{Node: uint8(i + 1), Peers: peers, Ring: testRing(c.t, 1, 1), Random: source{rand.New(rand.NewPCG(c.random.Uint64(), 4))}})
}

func (c *cluster) send(from, to uint8, datagram []byte) {
	if c.faults && c.random.IntN(10) == 0 {
		return
	}
	f := flying{c.now + time.Duration(c.random.IntN(30))*time.Millisecond, from, to, append([]byte(nil), datagram...)}
	c.flight = append(c.flight, f)
	if c.faults && c.random.IntN(20) == 0 {
		f.at += time.Duration(c.random.IntN(3000)) * time.Millisecond
		c.flight = append(c.flight, f)
	}
	if len(c.recorded) < 5000 {
		c.recorded = append(c.recorded, f)
	} else {
		c.recorded[c.random.IntN(len(c.recorded))] = f
	}
}

// step lets 10 ms pass.
func (c *cluster) step() {
	c.now += 10 * time.Millisecond
	for i, s := range c.nodes {
		if s == nil {
			continue
		}
		s.Tick(c.now)
		from := uint8(i + 1)
		for {
			to, datagram, ok := s.NextChallenge(nil)
			if !ok {
				break
			}
			c.send(from, to, datagram)
		}
		if c.random.IntN(10) == 0 || s.HasControls(c.now) {
			c.sent++
			payload := append(s.AppendControls(c.now, nil, 1000), 0xff)
			datagram := s.Append(nil, 0, binary.BigEndian.AppendUint64(payload, c.sent))
			for k := range c.nodes {
				if k != i {
					c.send(from, uint8(k+1), datagram)
				}
			}
		}
	}
	var later []flying
	for _, f := range c.flight {
		if f.at > c.now {
			later = append(later, f)
		} else {
			c.deliver(f)
		}
	}
	c.flight = later
	if c.faults {
		c.attack()
	}
}

func (c *cluster) deliver(f flying) {
	s := c.nodes[f.to-1]
	if s == nil || c.parted[f.from] || c.parted[f.to] {
		return
	}
	_, payload, v := s.Open(c.now, f.from, nil, f.datagram)
	if v != Accepted {
		return
	}
	if len(payload) != 9 {
		c.t.Fatalf("seed %d at %v: a payload of %d bytes", c.seed, c.now, len(payload))
	}
	number := binary.BigEndian.Uint64(payload[1:])
	if c.accepted[f.to][number] {
		c.t.Fatalf("seed %d at %v: node %d has accepted payload %d of node %d twice", c.seed, c.now, f.to, number, f.from)
	}
	c.accepted[f.to][number] = true
	c.heard[f.to][f.from] = c.now
}

// attack replays recorded datagrams, to any node, and altered ones.
func (c *cluster) attack() {
	for range c.random.IntN(4) {
		if len(c.recorded) == 0 {
			return
		}
		f := c.recorded[c.random.IntN(len(c.recorded))]
		if c.random.IntN(4) == 0 {
			f.to = uint8(1 + c.random.IntN(len(c.nodes)))
		}
		if c.random.IntN(2) == 0 {
			f.datagram = append([]byte(nil), f.datagram...)
			f.datagram[c.random.IntN(len(f.datagram))] ^= byte(1 + c.random.IntN(255))
		}
		c.deliver(f)
	}
}

// trouble restarts nodes, renews boot ids and parts the network.
func (c *cluster) trouble() {
	i := c.random.IntN(len(c.nodes))
	switch c.random.IntN(5) {
	case 0, 1:
		c.start(i)
	case 2:
		c.nodes[i] = nil
	case 3:
		if c.nodes[i] != nil {
			c.nodes[i].Renew(c.now)
		}
	case 4:
		c.parted[i+1] = true
	}
}

// settle repairs everything, and expects that all nodes hear all others soon and go on so.
func (c *cluster) settle() {
	c.faults = false
	c.parted = [MaxNode + 1]bool{}
	for i, s := range c.nodes {
		if s == nil {
			c.start(i)
		}
	}
	const soon, period = 4 * time.Second, 2 * time.Second
	for end := c.now + soon; c.now < end; {
		c.step()
	}
	for end := c.now + period; c.now < end; {
		c.step()
	}
	for to := range c.nodes {
		for from := range c.nodes {
			if quiet := c.now - c.heard[to+1][from+1]; to != from && quiet > period {
				c.t.Fatalf("seed %d at %v: node %d has not heard node %d for %v", c.seed, c.now, to+1, from+1, quiet)
			}
		}
	}
}

// Whatever the network and an attacker do, no payload is accepted twice, by any life of a node,
// and nodes that can hear each other do.
func TestSimulatedCluster(t *testing.T) {
	for seed := range seeds.Count(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, seed, 2+int(seed%3)*int(seed%7))
			c.settle()
			for range 6 {
				c.faults = true
				for range c.random.IntN(800) {
					c.step()
					if c.random.IntN(200) == 0 {
						c.trouble()
					}
				}
				c.settle()
			}
		})
	}
}

// Boot ids change for hours without a datagram lost.
func TestSimulatedRenewals(t *testing.T) {
	c := newCluster(t, 1, 3)
	c.settle()
	before := len(c.accepted[1])
	sent := c.sent
	boots := map[BootID]bool{}
	for end := c.now + 20*time.Minute; c.now < end; {
		c.step()
		boots[c.nodes[0].Boot()] = true
	}
	c.settle()
	if len(boots) < 9 {
		t.Errorf("%d boot ids in 20 minutes", len(boots))
	}
	// Node 1 hears what the two others have sent, which is two thirds of all.
	others := 0
	for number := range c.accepted[1] {
		if number > sent {
			others++
		}
	}
	if got := len(c.accepted[1]) - before; got < int(c.sent-sent)*6/10 {
		t.Errorf("node 1 has %d of about %d payloads", got, (c.sent-sent)*2/3)
	}
}
