package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// delays are the Delay clauses with which short flows are measured.
var delays = []struct{ name, path, clause string }{
	{"Debian", "debian", ""},
	{"ctbox", "ours", ""},
	{"ctbox, Delay { TCP 3 UDP 5 }", "ours", "\tDelay {\n\t\tTCP 3\n\t\tUDP 5\n\t\tMinPackets 3\n\t}\n"},
	{"ctbox, Delay { TCP 3 UDP 5 Assured off }", "ours", "\tDelay {\n\t\tTCP 3\n\t\tUDP 5\n\t\tMinPackets 3\n\t\tAssured off\n\t}\n"},
}

// Short flows come in steps. Each lives for half a second: a reply, which for TCP is the end of
// the handshake too, the end of a TCP connection, the end of the flow.
const (
	shortRate  = 20_000 // a second
	shortFlows = 10 * shortRate
	shortStep  = 5 * time.Millisecond
	shortBurst = int(shortRate * shortStep / time.Second)

	stepsToReply = 10
	stepsToClose = 60
	stepsToEnd   = 100
)

// short measures what replicating flows costs that end within half a second, with and without
// Delay: half of them TCP connections, half UDP queries.
func (b *bench) short() error {
	if !b.wanted("short") {
		return nil
	}
	fmt.Printf("\n| conntrackd, FT-FW over UDP, %d short flows at %d/s | datagrams from the active | from the backup | KiB from the active | CPU a flow, active | CPU a flow, backup |\n|---|---|---|---|---|---|\n",
		shortFlows, shortRate)
	for range b.runs {
		for _, who := range delays {
			path := b.oursd
			if who.path == "debian" {
				path = b.debiand
			}
			if err := b.shortRow(who.name, path, who.clause); err != nil {
				return fmt.Errorf("%s, short flows: %w", who.name, err)
			}
		}
	}
	return nil
}

func (b *bench) shortRow(name, path, delay string) error {
	active, backup, err := b.newPair(path, shortFlows, delay)
	for _, node := range []*fwNode{active, backup} {
		if node != nil {
			defer node.stop()
		}
	}
	if err != nil {
		return err
	}
	time.Sleep(settled)
	before := measure(active, backup)
	answers, _ := backup.sent()
	start := time.Now()
	if err := shortly(active.conn, shortFlows); err != nil {
		return err
	}
	took := time.Since(start)
	if err := until("both nodes have no flow", 30*time.Second, func() bool { return active.cached(0) == 0 && backup.cached(1) == 0 }); err != nil {
		return err
	}
	if planned := shortFlows * time.Second / shortRate; took > planned*11/10 {
		name += fmt.Sprintf(" (took %.1f s)", took.Seconds())
	}
	used := measure(active, backup).since(before)
	answered, _ := backup.sent()
	fmt.Printf("| %s | %d | %d | %d | %.1f us | %.1f us |\n", name, used.packets, answered-answers, used.bytes>>10,
		used.cpu[0].Seconds()*1e6/shortFlows, used.cpu[1].Seconds()*1e6/shortFlows)
	return nil
}

// shortly has n flows begin and end, shortRate a second.
func shortly(c *nl.Conn, n int) error {
	p := c.NewPipeline(context.Background(), func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			return f.Err
		}
		return nil
	})
	var f ctnetlink.Flow
	start := time.Now()
	steps := n / shortBurst
	for step := range steps + stepsToEnd {
		b, err := p.Batch()
		if err != nil {
			return err
		}
		for _, phase := range []struct {
			after  int
			typ    nl.Type
			change func(*ctnetlink.Flow) bool
		}{
			{0, ctnetlink.TypeFlowNew, beginShort}, {stepsToReply, ctnetlink.TypeFlowNew, replyShort},
			{stepsToClose, ctnetlink.TypeFlowNew, closeShort}, {stepsToEnd, ctnetlink.TypeFlowDelete, endShort},
		} {
			if at := step - phase.after; at >= 0 && at < steps {
				for i := range shortBurst {
					shortFlow(at*shortBurst+i, &f)
					if !phase.change(&f) {
						continue
					}
					r := nl.Request{Type: phase.typ, Family: nl.FamilyIPv4, Attrs: f.Append}
					if phase.after == 0 {
						r.Flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
					}
					if b.Full() {
						if err := p.Submit(b); err != nil {
							return err
						}
						if b, err = p.Batch(); err != nil {
							return err
						}
					}
					b.Add(r)
				}
			}
		}
		if err := p.Submit(b); err != nil {
			return err
		}
		time.Sleep(time.Until(start.Add(time.Duration(step+1) * shortStep)))
	}
	return errors.Join(p.Drain(), p.Close())
}

// shortFlow is the tuple of flow number i, TCP and UDP in turn.
func shortFlow(i int, f *ctnetlink.Flow) {
	flow(i, f)
	f.Has = ctnetlink.HasTimeout
	if i%2 == 1 {
		f.Orig.Proto, f.Orig.DstPort = ctnetlink.ProtoUDP, 53
		f.Reply = f.Orig.Inverted()
	}
}

func beginShort(f *ctnetlink.Flow) bool {
	f.Has |= ctnetlink.HasStatus
	f.Timeout, f.Status = 60, ctnetlink.StatusConfirmed
	if f.Orig.Proto == ctnetlink.ProtoTCP {
		f.Has |= ctnetlink.HasTCPState
		f.TCPState = 1 // SYN_SENT
	}
	return true
}

func replyShort(f *ctnetlink.Flow) bool {
	beginShort(f)
	f.Status |= ctnetlink.StatusSeenReply
	if f.Orig.Proto == ctnetlink.ProtoTCP {
		f.Status |= ctnetlink.StatusAssured
		f.TCPState = ctnetlink.TCPStateEstablished
	}
	return true
}

func closeShort(f *ctnetlink.Flow) bool {
	replyShort(f)
	f.TCPState = ctnetlink.TCPStateTimeWait
	return f.Orig.Proto == ctnetlink.ProtoTCP
}

func endShort(f *ctnetlink.Flow) bool {
	f.Has = 0
	return true
}
