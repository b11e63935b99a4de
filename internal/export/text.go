package export

import (
	"os"
	"strconv"
	"time"

	"ctbox/internal/jsonout"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// JSON encodes records as the flow objects of docs/json.md, with two more members at the end.
// It does not change, so several goroutines may use it.
type JSON struct{ Choice }

var jsonStyle = format.Style{Format: format.JSON, Without: ctnetlink.HasTimeout | ctnetlink.HasUse}

var (
	eventTypes  = [...]format.EventType{Begin: format.New, Interim: format.Update, End: format.Destroy}
	originNames = [...]string{Existing: "existing", MadeUp: "made_up"}
	reasonNames = [...]string{IdleTimeout: "idle", ActiveTimeout: "active", EndOfFlow: "closed", ForcedEnd: "forced", LackOfResources: "lost"}
)

// AppendRecord appends the object of r and a line break, or nothing if r is not selected.
func (x *JSON) AppendRecord(dst []byte, r *Record) []byte {
	if !x.Flow && !x.wantsNAT(r) {
		return dst
	}
	f := r.Flow
	orig, reply, has := f.Orig.Has, f.Reply.Has, f.Has
	start := f.TimestampStart
	if x.WithoutDestinations && !x.Flow {
		f.Orig.Has &^= ctnetlink.TupleDst | ctnetlink.TupleDstPort
		f.Reply.Has &^= ctnetlink.TupleSrc | ctnetlink.TupleSrcPort
	}
	if at := r.start(); at != 0 {
		f.TimestampStart, f.Has = uint64(at), f.Has|ctnetlink.HasTimestampStart
	}
	style := jsonStyle
	style.Now = r.Time
	event := format.Event{Type: eventTypes[r.Kind], Time: r.Time, PortID: r.PortID}
	dst = format.AppendFlow(dst, f, &style, &event)
	f.Orig.Has, f.Reply.Has, f.Has, f.TimestampStart = orig, reply, has, start

	o := jsonout.Object{Dst: dst[:len(dst)-1]}
	if r.Kind != Begin {
		o.Token("reason", reasonNames[r.Reason()])
	}
	if r.Origin != FromEvent {
		o.Token("origin", originNames[r.Origin])
	}
	o.Line()
	return o.Dst
}

// AppendLost appends the object that stands where n events or records are missing: "messages"
// that the kernel dropped, or "records" for which the queue had no room.
func AppendLost(dst []byte, at int64, what string, n uint64) []byte {
	o := jsonout.Object{Dst: dst}
	o.Begin()
	o.Token("event", "lost")
	o.Nanoseconds("time", uint64(at))
	o.Uint(what, n)
	o.Line()
	return o.Dst
}

// Syslog frames lines as messages of RFC 5424.
type Syslog struct {
	host, pid string
	counted   bool // RFC 6587, section 3.4.1: for streams
	buf       []byte
}

// NewSyslog returns a Syslog whose messages name this host and process. counted says that each
// message begins with its length, as streams need.
func NewSyslog(counted bool) *Syslog {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	return &Syslog{host: host, pid: strconv.Itoa(os.Getpid()), counted: counted}
}

// Append appends a message with a line, whose line break it drops.
func (s *Syslog) Append(dst []byte, at time.Time, line []byte) []byte {
	const daemonInfo = "<30>1 "
	b := append(s.buf[:0], daemonInfo...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z ")
	b = append(append(b, s.host...), " conntrackd "...)
	b = append(append(b, s.pid...), " flow - "...)
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	b = append(b, line...)
	s.buf = b
	if s.counted {
		dst = append(strconv.AppendInt(dst, int64(len(b)), 10), ' ')
	}
	return append(dst, b...)
}
