package seal_test

import (
	"crypto/rand"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/seal"
	"ctbox/sync/wire"
)

// BenchmarkDatagram compares what a full datagram of established TCP flows costs beside its
// seal: encoding with sealing, opening with parsing. The times are those of the thread, so
// that other work of the machine does not count, and the two parts alternate.
func BenchmarkDatagram(b *testing.B) {
	runtime.LockOSThread() // for cpu
	defer runtime.UnlockOSThread()
	ring, err := seal.NewRing("edge", map[uint8][seal.KeyLen]byte{1: {1}}, 1)
	if err != nil {
		b.Fatal(err)
	}
	sender := seal.NewSession(0, seal.Config{Node: 1, Peers: []uint8{2}, Ring: ring, Random: rand.Reader})
	receiver := seal.NewSession(0, seal.Config{Node: 2, Peers: []uint8{1}, Ring: ring, Random: rand.Reader})
	meet(b, sender, receiver)

	var flows [100]ctnetlink.Flow
	for i := range flows {
		flows[i] = establishedFlow(i)
	}
	var (
		payload  []byte
		datagram = make([]byte, 0, 2048)
		opened   = make([]byte, 0, 2048)
		body     []byte
		number   wire.Seq
		sent     int
		parts    [4]time.Duration
		last     = cpu()
	)
	lap := func(part int) {
		now := cpu()
		parts[part] += now - last
		last = now
	}
	packer := wire.NewStreamPacker(1472-seal.HeaderLen-seal.TagLen, func(p []byte) { payload = append(payload[:0], p...) })
	packer.Begin(func() wire.Seq { return number }, nil)
	var message wire.StreamMessage
	var flow ctnetlink.Flow
	for b.Loop() {
		lap(0)
		for payload = payload[:0]; len(payload) == 0; sent++ {
			body, err = wire.Encoder{}.AppendCompactFlow(body[:0], &flows[sent%len(flows)], false)
			if err != nil {
				b.Fatal(err)
			}
			packer.Numbered(number, false, wire.StreamFlowUpdate, body)
			number++
		}
		lap(0)
		datagram = sender.Append(datagram[:0], 0, payload)
		lap(1)
		_, p, verdict := receiver.Open(0, 1, opened, datagram)
		lap(2)
		if verdict != seal.Accepted {
			b.Fatal(verdict)
		}
		for reader := wire.ReadStream(p); ; {
			ok, err := reader.Next(&message)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			if message.Type == wire.StreamFlowUpdate {
				if _, err := wire.ParseCompactFlow(message.Body, &flow, false); err != nil {
					b.Fatal(err)
				}
			}
		}
		lap(3)
	}
	n := float64(b.N)
	b.ReportMetric(float64(sent)/n, "flows/datagram")
	for i, unit := range [...]string{"ns-encode", "ns-seal", "ns-open", "ns-parse"} {
		b.ReportMetric(float64(parts[i])/n, unit)
	}
	b.ReportMetric(float64(parts[1])/float64(parts[0]), "seal/encode")
	b.ReportMetric(float64(parts[2])/float64(parts[3]), "open/parse")
	b.ReportMetric(float64(parts[1])/float64(sent), "ns-seal/flow")
}

// cpu returns the CPU time that this thread has used.
func cpu() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// meet has the receiver challenge the sender, which makes the sender's life known to it.
func meet(b *testing.B, sender, receiver *seal.Session) {
	if _, _, v := receiver.Open(0, 1, nil, sender.Append(nil, 0, nil)); v != seal.BadLife {
		b.Fatal(v)
	}
	_, challenge, ok := receiver.NextChallenge(nil)
	if !ok {
		b.Fatal("no challenge")
	}
	sender.Open(0, 2, nil, challenge)
	if _, _, v := receiver.Open(0, 1, nil, sender.Append(nil, 0, sender.AppendControls(0, nil, 1000))); v != seal.Accepted {
		b.Fatal(v)
	}
}

// establishedFlow returns flow number i of a firewall that does not translate.
func establishedFlow(i int) (f ctnetlink.Flow) {
	f.Has = ctnetlink.HasTimeout | ctnetlink.HasStatus | ctnetlink.HasTCPState
	f.Timeout, f.TCPState = 432000, ctnetlink.TCPStateEstablished
	f.Status = ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured
	f.Orig = ctnetlink.Tuple{
		Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP,
		Src: ctnetlink.Addr{192, 0, 2, byte(i)}, Dst: ctnetlink.Addr{198, 51, 100, byte(i)}, SrcPort: uint16(1024 + i), DstPort: 443,
	}
	f.Reply = f.Orig.Inverted()
	return f
}
