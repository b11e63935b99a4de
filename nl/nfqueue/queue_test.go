package nfqueue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	gonfqueue "github.com/florianl/go-nfqueue/v2"
	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
	"ctbox/nl"
)

// queued is a namespace whose packets to UDP port 9 pass queue 5, with a socket that receives
// them.
type queued struct {
	*netnstest.NS
	q    *Queues
	sink net.PacketConn
	t    *testing.T
}

func newQueued(t *testing.T, flags, maxLen uint32) *queued {
	t.Helper()
	s := &queued{NS: netnstest.New(t, "queue"), t: t}
	s.IP("link", "set", "lo", "up")
	s.IP("addr", "add", "192.0.2.1/32", "dev", "lo")
	s.Must("iptables", "-A", "OUTPUT", "-p", "udp", "--dport", "9", "-j", "NFQUEUE", "--queue-num", "5")
	s.Do(func() {
		var err error
		if s.q, err = Open(0, 4<<20); err != nil {
			t.Fatal(err)
		}
		if s.sink, err = net.ListenPacket("udp", "192.0.2.1:9"); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { s.sink.Close(); s.q.Close() })
	if err := s.q.bind(context.Background(), &gonfqueue.Config{
		NfQueue: 5, MaxQueueLen: maxLen, MaxPacketLen: maxPacket, Copymode: gonfqueue.NfQnlCopyPacket, Flags: flags, AfFamily: unix.AF_INET,
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *queued) send(payloads ...string) {
	s.t.Helper()
	s.Do(func() {
		c, err := net.Dial("udp", "192.0.2.1:9")
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.Close()
		for _, p := range payloads {
			if _, err := c.Write([]byte(p)); err != nil {
				s.t.Fatal(err)
			}
		}
	})
}

func (s *queued) receive() string {
	s.t.Helper()
	b := make([]byte, 70000)
	s.sink.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := s.sink.ReadFrom(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b[:n])
}

// read reads n packets, and fails the test if the kernel refuses a verdict.
func (s *queued) read(n int, each func(*Packet)) {
	s.t.Helper()
	for n > 0 {
		_, err := s.q.Read(func(p *Packet) {
			n--
			each(p)
		}, func(err error) { s.t.Errorf("verdict refused: %v", err) })
		if err != nil {
			s.t.Fatal(err)
		}
		if err := s.q.Flush(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestQueueVerdicts(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	s.send("one", "two", "three", "four")
	var ids []uint32
	s.read(4, func(p *Packet) {
		ids = append(ids, p.ID)
		if p.Queue != 5 || p.EtherType != unix.ETH_P_IP || p.Truncated || p.CT != nil || len(p.Payload) < 28 {
			t.Errorf("%+v", p)
			s.q.Accept(p)
			return
		}
		switch text := string(p.Payload[28:]); text {
		case "two":
			s.q.Answer(&Verdict{Queue: p.Queue, ID: p.ID, Drop: true})
		case "three":
			b := append(bytes.Clone(p.Payload[:28]), "another payload"...)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
			copy(b[10:], ipChecksum(b[:20]))
			b[26], b[27] = 0, 0 // no UDP checksum
			s.q.Answer(&Verdict{Queue: p.Queue, ID: p.ID, Payload: b})
		default:
			s.q.Accept(p)
		}
	})
	for i, id := range ids {
		if id != ids[0]+uint32(i) {
			t.Errorf("ids %d", ids)
		}
	}
	for _, want := range []string{"one", "another payload", "four"} {
		if got := s.receive(); got != want {
			t.Errorf("received %q, want %q", got, want)
		}
	}
}

func ipChecksum(header []byte) []byte {
	s := uint32(0)
	for i := 0; i < len(header); i += 2 {
		if i != 10 {
			s += uint32(binary.BigEndian.Uint16(header[i:]))
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return binary.BigEndian.AppendUint16(nil, ^uint16(s))
}

// A packet of 65531 bytes arrives whole, a longer one is marked as truncated.
func TestQueueLongestPacket(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	for size, whole := range map[int]bool{65531: true, 65532: false, 65535: false} {
		payload := string(bytes.Repeat([]byte("x"), size-28))
		s.send(payload)
		s.read(1, func(p *Packet) {
			if len(p.Payload) != 65531 || p.Truncated == whole {
				t.Errorf("packet of %d bytes: %d, truncated %v", size, len(p.Payload), p.Truncated)
			}
			v := Verdict{Queue: p.Queue, ID: p.ID}
			if whole {
				v.Payload = p.Payload // and goes back whole
			}
			s.q.Answer(&v)
		})
		if got := s.receive(); got != payload {
			t.Errorf("received %d bytes", len(got))
		}
	}
}

// If the queue is full, further packets pass, and waiting packets are not lost.
func TestQueueFull(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 2)
	s.send("1", "2", "3", "4")
	got := map[string]bool{s.receive(): true, s.receive(): true}
	if !got["3"] || !got["4"] {
		t.Errorf("%v passed", got)
	}
	s.read(2, s.q.Accept)
	got = map[string]bool{s.receive(): true, s.receive(): true}
	if !got["1"] || !got["2"] {
		t.Errorf("%v were in the queue", got)
	}
}

// A verdict whose attributes the kernel refuses is sent again without them.
func TestQueueRefusedVerdict(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	s.send("text")
	var refusals []error
	refused := func(err error) { refusals = append(refusals, err) }
	if _, err := s.q.Read(func(p *Packet) {
		s.q.Answer(&Verdict{Queue: p.Queue, ID: p.ID, Payload: p.Payload, Drop: false})
		// a mark of one byte is invalid
		s.q.out = append(s.q.out, 5, 0, 3, 0, 1, 0, 0, 0)
		if native.Uint16([]byte{1, 0}) != 1 {
			copy(s.q.out[len(s.q.out)-8:], []byte{0, 5, 0, 3})
		}
		s.q.end()
	}, refused); err != nil {
		t.Fatal(err)
	}
	for len(refusals) == 0 {
		if err := s.q.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.q.Read(func(*Packet) { t.Error("another packet") }, refused); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.q.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := s.receive(); got != "text" {
		t.Errorf("received %q", got)
	}
	if len(refusals) != 1 || !errors.Is(refusals[0], unix.ERANGE) && !errors.Is(refusals[0], unix.EINVAL) {
		t.Errorf("refused with %v", refusals)
	}
}

// A second verdict for a packet is refused and reported, without further effect.
func TestQueueVerdictOnNothing(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	s.q.Answer(&Verdict{Queue: 5, ID: 77, Payload: []byte("nothing")})
	if err := s.q.Flush(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for n < 2 { // sent again once, without attributes
		if _, err := s.q.Read(func(*Packet) {}, func(err error) {
			n++
			if !errors.Is(err, unix.ENOENT) {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.q.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.q.Stop(); err != nil {
		t.Fatal(err)
	}
	if short, err := s.q.Read(func(*Packet) {}, func(error) { n++ }); err != nil || !short || n != 2 {
		t.Errorf("%v, %v, %d refusals", short, err, n)
	}
}

func TestQueueStop(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	stopped := make(chan error)
	go func() {
		_, err := s.q.Read(func(*Packet) { t.Error("a packet") }, func(err error) { t.Error(err) })
		stopped <- err
	}()
	if err := s.q.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Two programs can't bind the same queue, and a kernel that cannot send a packet's flow refuses
// Bind, because helpers need the flow.
func TestQueueBindRefusals(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	s.Do(func() {
		other, err := Open(0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		err = other.Bind(context.Background(), 5, 0)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) {
			t.Errorf("a queue that is taken: %v", err)
		}
	})
}

// Packets that arrive while a queue is added are not lost.
func TestQueueBindUnderTraffic(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	s.send("waiting")
	if err := s.q.bind(context.Background(), &gonfqueue.Config{NfQueue: 6, MaxQueueLen: 0, MaxPacketLen: maxPacket,
		Copymode: gonfqueue.NfQnlCopyPacket, Flags: gonfqueue.NfQaCfgFlagFailOpen, AfFamily: unix.AF_INET}); err != nil {
		t.Fatal(err)
	}
	if got := s.receive(); got != "waiting" {
		t.Errorf("received %q", got)
	}
}

// Reading and answering allocate nothing.
func TestQueueAllocations(t *testing.T) {
	s := newQueued(t, gonfqueue.NfQaCfgFlagFailOpen, 0)
	each := func(p *Packet) { s.q.Accept(p) }
	refused := func(err error) { t.Error(err) }
	var c net.Conn
	s.Do(func() {
		var err error
		if c, err = net.Dial("udp", "192.0.2.1:9"); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	payload := []byte("text")
	round := func() {
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		if _, err := s.q.Read(each, refused); err != nil {
			t.Fatal(err)
		}
		if err := s.q.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

// Reading any message stays within its bounds.
func FuzzPacket(f *testing.F) {
	// the first TFTP packet under SNAT, on Linux 6.1, without its flow
	message := native.AppendUint16(native.AppendUint32(nil, 0), uint16(typeQueuePacket))
	message = append(message, make([]byte, nl.NetlinkHeaderLen-len(message))...)
	message = append(message, 2, 0, 0, 10)
	message = append(nl.AppendAttrHeader(message, nfqaPacketHdr, 7), 0, 0, 0, 1, 8, 0, 2, 0)
	message = nl.AppendBytes(message, nfqaPayload, []byte("a packet"))
	message = nl.AppendU32(message, nfqaCTInfo, 2)
	message = nl.AppendBytes(message, nfqaCT, nil)
	f.Add(message)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < nl.HeadersLen {
			return
		}
		var p Packet
		if p.parse(b) && len(p.Payload)+len(p.CT) > len(b) {
			t.Errorf("%+v", p)
		}
	})
}
