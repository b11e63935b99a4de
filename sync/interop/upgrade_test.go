package interop

import (
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// TestUpgrade changes a running pair from Debian's daemons to ctbox's and back, one node at a
// time, always the one without traffic, which then takes over. No flow is lost.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{debian, debian}, clause("FTFW {\n}", ""), "")
	u := &upgrade{pair: p, port: 20000}
	for _, s := range p.a.samples() {
		// The wire does not carry the ports of these protocols, so a replica cannot identify
		// their flows.
		if !keyless(s.flow.Orig.Proto) {
			u.create(p.a, s.flow)
		}
	}
	u.grow(p.a, 300)
	u.copied(p.a, p.b, "at first")
	primary, backup := p.a, p.b
	for _, to := range []program{ours, ours, debian, debian} {
		t.Logf("%s becomes %s", backup.daemon.name(), to)
		u.replace(backup, to, primary)
		u.switchOver(primary, backup)
		primary, backup = backup, primary
	}
	there := map[identity]bool{}
	for _, f := range primary.kernel.flows() {
		there[identityOf(&f)] = true
	}
	for _, f := range u.made {
		if !there[identityOf(&f)] {
			t.Errorf("%s is lost", entryOfFlow(&f))
		}
	}
}

type upgrade struct {
	*pair
	port uint16           // the last port that grow used
	made []ctnetlink.Flow // created and not ended
}

func (u *upgrade) create(n *node, f ctnetlink.Flow) {
	u.t.Helper()
	n.kernel.create(&f)
	u.made = append(u.made, f)
}

// grow creates and changes flows at the primary, and ends some.
func (u *upgrade) grow(primary *node, count int) {
	u.t.Helper()
	for range count {
		u.port++
		f := u.a.flow(u.port)
		u.create(primary, f)
		primary.kernel.change(marked(&f, uint32(u.port)))
		if u.port%3 == 0 {
			primary.kernel.remove(&f)
			u.made = u.made[:len(u.made)-1]
		}
	}
}

// replace starts the other program on the backup. Traffic continues meanwhile.
func (u *upgrade) replace(n *node, to program, primary *node) {
	u.t.Helper()
	n.daemon.stop()
	n.kernel.flush() // as conntrackd -t does after PurgeTimeout
	u.grow(primary, 100)
	n.daemon.program = to
	n.daemon.start()
	n.daemon.client("-n")
	u.grow(primary, 100)
	u.copied(primary, n, "after the replacement")
}

// copied waits until the backup has all flows of the primary's kernel.
func (u *upgrade) copied(primary, backup *node, when string) {
	u.t.Helper()
	diff := ""
	defer func() {
		if u.t.Failed() {
			u.t.Logf("%s: %s against the kernel of %s:\n%s\nlogs:\n%s\n%s", when, backup.daemon.name(), primary.daemon.name(),
				diff, primary.daemon.log(), backup.daemon.log())
		}
	}()
	netnstest.Eventually(u.t, patience, when+": the backup knows all flows", func() bool {
		diff = difference(primary.kernel.entries(), backup.external())
		return diff == ""
	})
}

// switchOver does the same as primary-backup.sh on the new primary.
func (u *upgrade) switchOver(primary, backup *node) {
	u.t.Helper()
	backup.daemon.commit()
	there := map[identity]ctnetlink.Flow{}
	for _, f := range backup.kernel.flows() {
		there[identityOf(&f)] = f
	}
	for _, f := range primary.kernel.flows() {
		got, ok := there[identityOf(&f)]
		if !ok {
			u.t.Errorf("%s is not in the kernel of %s", entryOfFlow(&f), backup.daemon.name())
		} else if d := compareFlows(&f, &got, backup.daemon.program); d != "" {
			u.t.Errorf("%s in the kernel of %s:%s", entryOfFlow(&f), backup.daemon.name(), d)
		}
	}
	for _, command := range []string{"-f", "-R", "-B"} {
		backup.daemon.client(command)
	}
}
