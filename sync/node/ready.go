package node

import (
	"context"
	"time"

	"ctbox/conf"
	"ctbox/sync/ready"
)

// Readiness is whether the node may take over, and what it lacks.
type Readiness struct {
	ready.Decision
	Held uint64 // flows that it holds of its peers; 0 with DisableExternalCache
}

// readyPeriod is how often the node decides by itself. keepalived takes more than three
// seconds to react to a file.
const readyPeriod = 500 * time.Millisecond

func readyConfig(s *conf.Sync) ready.Config {
	return ready.Config{MaxLag: s.Ready.MaxLag, StartGrace: s.Ready.StartGrace, GiveUp: s.Ready.GiveUp}
}

// decide decides at this moment.
func (n *Node) decide() Readiness {
	f := n.facts()
	r := Readiness{Decision: n.ready.Step(&f)}
	n.replicator.SetReadiness(r.InSync, r.Promotable, f.Primary)
	n.adoptLeft(r.InSync)
	if len(n.copies()) > 0 {
		r.Held = f.Held
	}
	return r
}

func (n *Node) facts() ready.Facts {
	f := n.replicator.Facts()
	f.Primary = n.primary()
	return f
}

// primary reports whether this node has the traffic, as far as it knows.
func (n *Node) primary() bool { return n.failback.Primary(n.replicator.Announces()) }

// decideAgain decides periodically: a decision depends on those before.
func (n *Node) decideAgain() {
	n.decide()
	n.readyTimer.After(readyPeriod)
}

// Ready returns whether the node may take over, and whether it is in sync: with a maxLag
// other than 0 InSync and Why are as if that were the MaxLag of the configuration.
func (n *Node) Ready(ctx context.Context, maxLag time.Duration) (r Readiness, err error) {
	err = n.do(ctx, func() error {
		if n.replicator == nil {
			return ErrUnsupported
		}
		r = n.decide()
		if maxLag != 0 {
			f := n.facts()
			r.Why = ready.Check(&f, maxLag)
			r.InSync = r.Why == ""
		}
		return nil
	})
	return r, err
}

// readiness completes the status.
func (n *Node) readiness(s *Status) {
	f := n.facts()
	s.Ready = n.decide()
	for i := range s.Peers {
		p := &s.Peers[i]
		if p.Ignored {
			continue
		}
		name := p.Addr.Addr().String()
		for j := range f.Peers {
			// FT-FW has one peer, which may send from several addresses.
			if f.Peers[j].Name == name || n.mode == ModeFTFW {
				p.Lacks = s.Ready.Peers[j]
			}
		}
	}
}
