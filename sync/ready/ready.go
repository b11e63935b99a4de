// Package ready decides whether a node is in sync with its peers, and whether it may take
// over from them (promotable). Machine has no clock, no socket and no goroutine: the owner
// calls Step with what it knows at a moment.
//
// The two answers differ because the survivor of a pair is in sync with nobody and must
// stay promotable, and a node that returns empty must not become it too early:
//
//   - A node is not promotable when it starts.
//   - It is promotable when it is in sync, and stays so when its peers fall silent or start
//     anew: what they lack is no reason to step down.
//   - It is promotable if it has heard no peer for Config.StartGrace after its start, if its
//     peers fall silent when it has taken over from them, and if it came no closer to being
//     in sync for Config.GiveUp.
//   - It is no longer promotable when it lacks for longer than Config.MaxLag what a peer
//     that has run all the time has announced. A primary, which has the traffic, stays
//     promotable even then.
package ready

import (
	"sort"
	"strconv"
	"time"
)

// Config has the parameters of a Machine, those of the Ready clause.
type Config struct {
	MaxLag     time.Duration
	StartGrace time.Duration
	GiveUp     time.Duration // 0 for never
}

// Copy is how far a node has received everything that a peer has. More is higher.
type Copy uint8

// The degrees.
const (
	CopyNone     Copy = iota // not requested
	CopyAsked                // requested, and the peer has not acknowledged that
	CopyUnderWay             // it arrives
	CopyWhole                // it has arrived
)

// Peer is what a node knows of one peer.
type Peer struct {
	ID      string        // the same for one peer, whatever its Name
	Name    string        // as texts have it
	Silence time.Duration // since its last message
	Life    uint64        // another number after the peer has started anew
	Copy    Copy
	Missing int           // gaps in what it sent that are not repaired yet
	Waited  time.Duration // age of the oldest of these, if Missing is not 0
	Lost    uint64        // events of its kernel that it has lost, as it says
	// Unproven is set where digests prove that the copy is equal, and none has since it arrived
	// or something of it was lost.
	Unproven bool
}

// Facts is what a node knows at a moment.
type Facts struct {
	Now     time.Duration // since the node's start; never decreases
	Quiet   time.Duration // a peer that is silent for longer is not heard
	Filling bool          // the first reading of the kernel's tables has not ended
	Primary bool          // the node has taken over, and no peer has done so since
	Lag     time.Duration // age of the oldest change that this node has not sent yet
	Held    uint64        // flows that it holds of its peers
	Full    bool          // it has no room for more
	Peers   []Peer        // each that was ever heard
}

// Decision is the result of a Step.
type Decision struct {
	InSync bool
	Why    string // one line: what InSync lacks; "" if nothing

	Promotable bool
	Reason     string        // one line: why the node is promotable, or why not
	Age        time.Duration // since it was last in sync; -1 for never

	Peers []string // what each of Facts.Peers lacks, "" for nothing
}

// Machine decides for one node. It is not safe for concurrent use.
type Machine struct {
	config Config

	promotable bool
	ground     ground
	synced     bool          // the node was in sync once
	lastSync   time.Duration // if synced: when it was last
	since      time.Duration // not in sync since then
	lives      map[string]uint64

	closest  Copy // the most that was reached since then
	most     uint64
	progress time.Duration // when the one or the other last grew
}

// ground is why a node is promotable.
type ground uint8

const (
	inSync   ground = iota // it is or was in sync, and its peers have run since
	survivor               // it was, and a peer has started anew since
	alone                  // no peer within StartGrace
	last                   // it has taken over, and the peers have fallen silent since
	gaveUp
)

// New returns the machine of a node that starts.
func New(c Config) *Machine { return &Machine{config: c, lives: map[string]uint64{}} }

// Configure changes the parameters from now on.
func (m *Machine) Configure(c Config) { m.config = c }

// Config returns the parameters.
func (m *Machine) Config() Config { return m.config }

// Step records what a node knows now and decides.
func (m *Machine) Step(f *Facts) Decision {
	d := Decision{Peers: make([]string, len(f.Peers))}
	d.Why = check(f, m.config.MaxLag, d.Peers)
	d.InSync = d.Why == ""
	anew := m.startedAnew(f)
	switch {
	case d.InSync:
		m.promotable, m.ground = true, inSync
		m.synced, m.lastSync, m.since = true, f.Now, f.Now
		m.closest, m.most, m.progress = CopyNone, 0, f.Now
	case m.promotable && m.ground == inSync && anew:
		m.ground = survivor
	case m.promotable && m.ground == inSync && !f.Primary && heard(f) && f.Now-m.since > m.config.MaxLag:
		m.promotable = false
		m.progress = f.Now
	}
	if !m.promotable {
		m.advance(f)
		switch {
		case len(f.Peers) == 0 && f.Now >= m.config.StartGrace && !f.Filling:
			m.promotable, m.ground = true, alone
		case f.Primary && len(f.Peers) > 0 && !heard(f):
			// What it lacks died with the peer.
			m.promotable, m.ground = true, last
		case m.config.GiveUp > 0 && f.Now-m.progress >= m.config.GiveUp:
			m.promotable, m.ground = true, gaveUp
		}
	}
	if !heard(f) {
		// Silence alone never makes a node unfit; it begins to count when a peer is heard.
		m.since = f.Now
	}
	d.Promotable, d.Age = m.promotable, -1
	if m.synced {
		d.Age = f.Now - m.lastSync
	}
	d.Reason = m.reason(f, &d)
	return d
}

// advance records progress towards being in sync. A new maximum counts, not a change: a bulk
// that begins again and again is no progress.
func (m *Machine) advance(f *Facts) {
	closest := CopyNone
	for i := range f.Peers {
		closest = max(closest, f.Peers[i].Copy)
	}
	if closest > m.closest || f.Held > m.most {
		m.progress = f.Now
	}
	m.closest, m.most = max(m.closest, closest), max(m.most, f.Held)
}

// startedAnew reports whether a peer that was known has started anew since the last Step.
func (m *Machine) startedAnew(f *Facts) (anew bool) {
	lives := make(map[string]uint64, len(f.Peers))
	for i := range f.Peers {
		p := &f.Peers[i]
		life, known := m.lives[p.ID]
		anew = anew || known && life != p.Life
		lives[p.ID] = p.Life
	}
	m.lives = lives
	return anew
}

// Check returns why a node that knows f is not in sync, in one line, "" if it is.
func Check(f *Facts, maxLag time.Duration) string {
	return check(f, maxLag, make([]string, len(f.Peers)))
}

// check is Check that also says what each peer lacks.
func check(f *Facts, maxLag time.Duration, peers []string) (why string) {
	any := false
	silent := ""
	for i := range f.Peers {
		p := &f.Peers[i]
		peers[i] = p.lacks(f, maxLag)
		switch {
		case !p.heard(f):
			silent = peers[i]
		case peers[i] != "":
			any = true
			if why == "" {
				why = peers[i]
			}
		default:
			any = true
		}
	}
	switch {
	case len(f.Peers) == 0:
		return "no peer has been heard"
	case !any:
		return silent
	case f.Filling:
		return "the kernel's table is being read for the first time"
	case why != "":
		return why
	case f.Full:
		return "the external cache is full: HashLimit is too small"
	case f.Lag > maxLag:
		return "changes have been waiting to be sent for " + Seconds(f.Lag)
	}
	return ""
}

func (p *Peer) heard(f *Facts) bool { return p.Silence < f.Quiet }

func heard(f *Facts) bool {
	for i := range f.Peers {
		if f.Peers[i].heard(f) {
			return true
		}
	}
	return false
}

// lacks returns what keeps a node from being in sync with the peer, "" for nothing.
func (p *Peer) lacks(f *Facts, maxLag time.Duration) string {
	switch {
	case !p.heard(f):
		return p.Name + " has been silent for " + Seconds(p.Silence)
	case p.Copy == CopyNone:
		return p.Name + " has not been asked for its flows"
	case p.Copy == CopyAsked:
		return p.Name + " has not acknowledged the request for its flows"
	case p.Copy == CopyUnderWay:
		return "the bulk of " + p.Name + " is not complete"
	case p.Unproven:
		return "the copy of " + p.Name + " is not proven to be equal"
	case p.Lost > 0:
		return p.Name + " has lost " + count(p.Lost, "event") + " of its kernel"
	case p.Missing > 0 && p.Waited > maxLag:
		return count(uint64(p.Missing), "gap") + " in what " + p.Name + " sent, the oldest for " + Seconds(p.Waited)
	}
	return ""
}

func (m *Machine) reason(f *Facts, d *Decision) string {
	switch {
	case d.InSync:
		return "in sync"
	case !m.promotable && !m.synced:
		return "not in sync since the start: " + d.Why
	case !m.promotable:
		return "no longer in sync: " + d.Why
	case m.ground == alone:
		return "no peer was heard for " + Seconds(m.config.StartGrace) + " after the start"
	case m.ground == last:
		return "it has taken over and no peer was heard"
	case m.ground == gaveUp:
		return "no progress for " + Seconds(m.config.GiveUp) + ": " + d.Why
	case m.ground == survivor:
		return "a peer has started anew, in sync " + Seconds(d.Age) + " ago"
	case !heard(f):
		return "no peer is heard, in sync " + Seconds(d.Age) + " ago"
	case f.Primary && f.Now-m.since > m.config.MaxLag:
		return "it has taken over, in sync " + Seconds(d.Age) + " ago"
	}
	return "in sync " + Seconds(d.Age) + " ago"
}

// Seconds is a time as texts have it: tenths below ten seconds, whole seconds above.
func Seconds(d time.Duration) string {
	if d < 10*time.Second {
		return strconv.FormatFloat(float64(d/(100*time.Millisecond))/10, 'f', -1, 64) + " s"
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + " s"
}

func count(n uint64, of string) string {
	if n != 1 {
		of += "s"
	}
	return strconv.FormatUint(n, 10) + " " + of
}

// Sort sorts peers by name, the order in which they are judged.
func Sort(peers []Peer) {
	sort.Slice(peers, func(i, j int) bool { return peers[i].Name < peers[j].Name })
}
