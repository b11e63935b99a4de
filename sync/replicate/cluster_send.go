//go:build !no_cluster

package replicate

import (
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// transmit is Transmit of version 2: it sends everything that the stream has queued, what the
// session has to say, and digests.
func (c *cluster) transmit() {
	now := c.sched.Now()
	controls := c.session.HasControls(now)
	if c.machine.Pending() == 0 && !controls && !c.session.HasChallenge() && !c.digests.packed && now < c.digests.answers.Deadline() {
		c.freeReleased()
		return
	}
	if c.renewal.due() {
		c.session.Renew(now)
		c.log.Notice("this machine may be a copy or a former state of itself: it begins a new life towards its peers")
	}
	c.sendChallenges()
	if controls {
		// What the session says is in front of the next payload. A peer that learns of this life
		// by it needs the stream's state in the same datagram.
		c.stream.StateDue()
	}
	c.payload.SetCapacity(c.payloadCapacity())
	c.digests.packed = false
	for {
		s, ok := c.stream.Next()
		if !ok {
			break
		}
		c.pack(&s)
		if c.packer.Datagrams() > batchDatagrams {
			c.flushPacker()
		}
	}
	c.packDigests(now)
	c.payload.Flush()
	c.flushPacker()
	c.stream.Sent(now)
	c.freeReleased()
}

// payloadCapacity returns how many bytes of messages fit into a datagram.
func (c *cluster) payloadCapacity() int {
	return c.links.all[c.links.current].Capacity() - c.session.Overhead()
}

// appendControls appends what a payload begins with: control messages of the session.
func (c *cluster) appendControls(dst []byte) []byte {
	return c.session.AppendControls(c.sched.Now(), dst, c.payloadCapacity()-controlsReserve)
}

// controlsReserve is what the session leaves in a payload: for the POSITION and the STATE.
const controlsReserve = 64

// sealPayload seals a payload, once for all peers, and adds the datagram to those that are sent
// together.
func (c *cluster) sealPayload(payload []byte) {
	c.packer.AddWhole(c.session.Append(c.packer.Buffer(), c.flags, payload))
}

// sendChallenges sends the challenges that are due, on every link: which of them leads to the peer
// is not known before it has answered.
func (c *cluster) sendChallenges() {
	for c != nil {
		_, datagram, ok := c.session.NextChallenge(c.challenges.Buffer())
		if !ok {
			return
		}
		c.challenges.AddWhole(datagram)
		for i := range c.links.all {
			c.links.sendOn(i, c.challenges)
		}
		c.challenges.Reset()
	}
}

// pack adds the message of s to the payload. An object that is gone leaves no message and no
// number.
func (c *cluster) pack(s *proto.Send) {
	if s.Control {
		if s.Message.Type == wire.StreamNotice {
			c.fillNotice(&s.Notice)
			c.body = s.Notice.AppendBody(c.body[:0])
			s.Message.Body = c.body
		}
		s.Message.Number, s.Message.Again = s.Header.Seq, s.Again
		c.payload.Message(&s.Message)
		return
	}
	var typ wire.StreamType
	var ok bool
	if s.Object.Table == proto.Expects {
		typ, ok = c.encodeExpect(s)
	} else {
		typ, ok = c.encodeFlow(s)
	}
	if !ok {
		return
	}
	c.payload.Numbered(s.Header.Seq, s.Again, typ, c.body)
	c.replica.Sent++
}

// The types of messages by the state of their objects.
var (
	streamFlowTypes   = [...]wire.StreamType{cache.New: wire.StreamFlowNew, cache.Alive: wire.StreamFlowUpdate, cache.Dead: wire.StreamFlowEnd}
	streamExpectTypes = [...]wire.StreamType{cache.New: wire.StreamExpectNew, cache.Alive: wire.StreamExpectUpdate, cache.Dead: wire.StreamExpectEnd}
)

// encodeFlow sets body to the message of a flow of the internal cache, with its contents of now, and
// notes in the ledger what the peers hold with it. ok is false if there is none.
func (c *cluster) encodeFlow(s *proto.Send) (typ wire.StreamType, ok bool) {
	r, h := c.Replicator, cache.Handle(s.Object.Handle)
	state, there := r.internal.Flows.State(h)
	if !there || !r.internal.Flows.Load(h, &r.flow) {
		c.withhold(s)
		return 0, false
	}
	typ = streamFlowTypes[state]
	if s.Withdrawn {
		typ = wire.StreamFlowWithdrawn
	}
	living := cache.Handle(0)
	if state == cache.Dead {
		// A flow with the same tuple may live already. One that waits is not announced yet.
		living = r.internal.Flows.Find(&r.flow)
		if living != 0 && !c.mayAnnounce(flowObject(living)) {
			living = 0 // it is another node's
		}
		if living != 0 && !c.stream.Waits(flowObject(living)) {
			c.superseded(s, flowObject(living))
			return 0, false
		}
	}
	end := typ == wire.StreamFlowEnd || typ == wire.StreamFlowWithdrawn
	body, err := r.encoder.AppendCompactFlow(c.body[:0], &r.flow, end)
	if err != nil {
		c.withhold(s)
		return 0, false
	}
	epoch := owner.Epoch(r.internal.Flows.Epoch(h))
	if !end && c.book == nil {
		r.internal.Flows.SetEpoch(h, epoch) // without the marks of a Book that a reload has ended
	}
	c.body = wire.AppendCompactEpoch(body, epoch)
	if end {
		c.ended(s.Object, living)
	} else {
		c.sent(s.Object)
	}
	return typ, true
}

// encodeExpect is encodeFlow for an expectation.
func (c *cluster) encodeExpect(s *proto.Send) (typ wire.StreamType, ok bool) {
	r, h := c.Replicator, cache.Handle(s.Object.Handle)
	state, there := r.internal.Expects.State(h)
	if !there || !r.internal.Expects.Load(h, &r.expect) {
		c.withhold(s)
		return 0, false
	}
	typ = streamExpectTypes[state]
	if s.Withdrawn {
		typ = wire.StreamExpectWithdrawn
	} else if state == cache.Dead {
		if living := r.internal.Expects.Find(&r.expect); living != 0 {
			c.superseded(s, expectObject(living))
			return 0, false
		}
	}
	end := typ == wire.StreamExpectEnd || typ == wire.StreamExpectWithdrawn
	body, err := r.encoder.AppendCompactExpect(c.body[:0], &r.expect, end)
	if err != nil {
		c.withhold(s)
		return 0, false
	}
	c.body = body
	if end {
		c.ended(s.Object, 0)
	} else {
		c.sent(s.Object)
	}
	return typ, true
}

// withhold takes back an object that is gone, or that has no message.
func (c *cluster) withhold(s *proto.Send) {
	c.ended(s.Object, 0)
	c.stream.Withheld(s.Object)
}

// superseded takes back the end of an object: the peers get the object that has its identity now,
// with a number of its own, in its place.
func (c *cluster) superseded(s *proto.Send, by proto.Object) {
	if !c.stream.Holds(by) {
		c.stream.Changed(by)
	}
	c.ended(s.Object, 0)
	c.stream.Superseded(s.Object, by)
}

// probeSize returns the Size of a probe that fills a datagram of so many bytes.
func (c *cluster) probeSize(capacity int) int {
	return capacity - c.session.Overhead() - probeFrame
}

// probePacket returns the length of the datagram with a probe of that Size.
func (c *cluster) probePacket(size int) int { return size + c.session.Overhead() + probeFrame }

// probeFrame is what a payload has beside the body of a long NOTICE: a POSITION, and the NOTICE's
// type and length.
const probeFrame = 6 + 4
