package replicate

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/link"
	"ctbox/sync/wire"
)

// listener is a Replicator whose clock and peers the test moves by hand.
type listener struct {
	*Replicator
	log bytes.Buffer
}

func newListener(t *testing.T, mode conf.Mode, count int) *listener {
	t.Helper()
	l := &listener{Replicator: unwired(mode)}
	l.Replicator.log = daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&l.log, nil))}
	l.cfg.RefreshTime = time.Minute
	l.links = &links{owner: l.Replicator}
	for i := range count {
		l.links.all = append(l.links.all, link.New(link.Config{Transport: link.UDP, Port: 3780}, i, nil, link.Reports{}))
	}
	l.packer = wire.NewPacker(1400)
	l.hearing.next = peerQuiet
	return l
}

// pass lets time pass in small steps, as the loop would.
func (l *listener) pass(d time.Duration, every func()) {
	for end := l.sched.Now() + d; l.sched.Now() < end; {
		l.sched.SetNow(l.sched.Now() + 100*time.Millisecond)
		if every != nil {
			every()
		}
		if at := l.hearing.next; at != 0 && l.sched.Now() >= at {
			l.checkPeers(at)
		}
	}
}

func (l *listener) hears(link int, from string) { l.heard(link, netip.MustParseAddr(from)) }

// said returns what was logged since the last call, without the fields' names.
func (l *listener) said() (lines []string) {
	for line := range strings.Lines(l.log.String()) {
		_, text, _ := strings.Cut(line, `msg="`)
		text, _, _ = strings.Cut(text, `"`)
		lines = append(lines, text)
	}
	l.log.Reset()
	return lines
}

func (l *listener) expect(t *testing.T, want ...string) {
	t.Helper()
	got := l.said()
	for i, w := range want {
		if len(got) != len(want) || !strings.HasPrefix(got[i], w) {
			t.Fatalf("said %q, want %q", got, want)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("said %q, want %q", got, want)
	}
}

const peerA, peerB = "192.0.2.2", "192.0.2.3"

// In FT-FW and NOTRACK every node sends something each second.
func TestSilentPeer(t *testing.T) {
	for _, mode := range []conf.Mode{conf.ModeFTFW, conf.ModeNOTRACK} {
		l := newListener(t, mode, 1)
		l.pass(4*time.Second, nil)
		l.expect(t)
		l.pass(60*time.Second, nil)
		l.expect(t, "nothing has been heard from any peer for 5 seconds, although every node sends something each second: "+
			"does its daemon run, and do both firewalls accept UDP port 3780?")
		l.hears(0, peerA)
		l.expect(t, "192.0.2.2 is heard, after 64 seconds")
		l.pass(time.Minute, func() { l.hears(0, peerA) })
		l.expect(t)
		l.pass(time.Minute, nil)
		l.expect(t, "nothing has been heard from 192.0.2.2 for 5 seconds, ")
		l.hears(0, peerA)
		l.expect(t, "192.0.2.2 is heard again, after 60 seconds")
		l.pass(4*time.Second, nil)
		l.expect(t)
	}
}

// Of several peers each is missed, and the others' messages do not hide that.
func TestOneOfSeveralPeersIsSilent(t *testing.T) {
	l := newListener(t, conf.ModeNOTRACK, 1)
	l.hears(0, peerA)
	l.hears(0, peerB)
	l.pass(time.Minute, func() { l.hears(0, peerA) })
	l.expect(t, "nothing has been heard from 192.0.2.3 for 5 seconds, ")
	l.hears(0, peerB)
	l.expect(t, "192.0.2.3 is heard again, after 60 seconds")
}

// Over several links a peer has several addresses: it is not missed where another link is
// used.
func TestPeerWithSeveralLinks(t *testing.T) {
	l := newListener(t, conf.ModeFTFW, 2)
	l.hears(0, peerA)
	l.pass(time.Minute, func() { l.hears(1, peerB) })
	l.expect(t)
	l.pass(time.Minute, nil)
	l.expect(t, "nothing has been heard from any peer for 5 seconds, ")
	l.hears(0, peerA)
	l.expect(t, "192.0.2.2 is heard again, after 60 seconds")
}

// In ALARM nothing is due without flows, and with some not before RefreshTime.
func TestSilentPeerInAlarm(t *testing.T) {
	l := newListener(t, conf.ModeALARM, 1)
	l.pass(10*time.Minute, nil)
	l.expect(t)
	f := flowtest.Flows(1)[0]
	l.hears(0, peerA)
	l.external.Flows.Put(&f, l.sched.Now())
	l.pass(time.Minute, nil)
	l.expect(t)
	l.pass(time.Minute, nil)
	l.expect(t, "nothing has been heard from any peer for 65 seconds, although the external cache has flows")
	l.hears(0, peerA)
	l.expect(t, "192.0.2.2 is heard again, after 120 seconds")
}

// Over TCP a peer has to be connected at least.
func TestUnconnectedPeerInAlarm(t *testing.T) {
	l := newListener(t, conf.ModeALARM, 0)
	l.links.all = append(l.links.all, link.New(link.Config{Transport: link.TCP, Port: 3780}, 0, nil, link.Reports{}))
	l.pass(time.Minute, nil)
	l.expect(t, "nothing has been heard from any peer for 5 seconds, and none is connected: does its daemon run, and do both "+
		"firewalls accept TCP port 3780?")
	l.hears(0, peerA)
	l.expect(t, "192.0.2.2 is heard again, after 55 seconds")
}

// A process that did not run, on a suspended machine for one, has heard nothing because of
// that.
func TestSilenceOfASleeper(t *testing.T) {
	l := newListener(t, conf.ModeFTFW, 1)
	l.hears(0, peerA)
	l.sched.SetNow(l.sched.Now() + time.Hour)
	l.checkPeers(l.hearing.next)
	l.pass(4*time.Second, nil)
	l.expect(t)
	l.pass(4*time.Second, nil)
	l.expect(t, "nothing has been heard from 192.0.2.2 for 3605 seconds, ")
}
