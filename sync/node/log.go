package node

import (
	"log/slog"

	"ctbox/internal/loglimit"
	"ctbox/nl/ctnetlink"
)

// LevelNotice is the level of conntrackd's notices, between info and warning.
const LevelNotice = slog.Level(2)

// EntryKey is the key of the attribute that carries the entry which a log record
// is about, as text without a final newline ("commit-create: File exists", and
// which flow that was). The log has it on a line of its own behind the message.
const EntryKey = "entry"

// Ended is called by a node in statistics mode for each cached flow that has ended. f is
// the flow of the kernel's event, counters included, or the cached flow where the end had
// no event. Calls come one at a time with the node's lock held: Ended must not block, and
// must not keep f.
type Ended func(f *ctnetlink.Flow)

// limit is a loglimit.Limit for lines of one kind.
type limit = loglimit.Limit[struct{}, struct{}]

// limits keep lines that peers or the kernel cause from filling the log.
type limits struct{ lost, started *limit }

func (l *limits) open(n *Node) {
	l.lost = loglimit.New[struct{}](1, lostPeriod, n.warnLost)
	l.started = loglimit.New[struct{}](1, startedPeriod, n.noticeStarts)
}

// close logs what was held back.
func (l *limits) close() {
	l.lost.Close()
	l.started.Close()
}
