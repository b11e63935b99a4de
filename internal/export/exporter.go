package export

import (
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"ctbox/internal/feature"
)

// Options are the settings of an exporter. They do not change.
type Options struct {
	Format      string // "ipfix" or "json"
	Destination Destination
	Choice      Choice

	Domain          uint32        // IPFIX: observation domain
	Enterprise      uint32        // IPFIX: the operator's private enterprise number, 0 for none
	TemplateRefresh time.Duration // IPFIX over UDP: how often templates are sent
	ActiveTimeout   time.Duration // how often a flow that goes on is recorded; 0 for never
	QueueLimit      int           // records that wait for the destination
	// Injectors are the netlink ports of the sockets that bring other nodes' flows into the kernel. Such a
	// flow is recorded when packets have passed it here.
	Injectors []uint32

	// OpenFile opens a file for appending and creates it if necessary. Writing to it must
	// not block for longer than its deadline, except on a disk.
	OpenFile func(name string) (*os.File, error)
	Log      *slog.Logger
}

// Name returns the format and the destination, as messages and the status name an exporter.
func (o *Options) Name() string { return o.Format + " " + o.Destination.String() }

// output is the sending half of an exporter: it encodes records and has them sent. Its methods
// are for one goroutine, unless they say otherwise.
type output struct {
	*sender
	ipfix *IPFIX // nil for JSON
	json  *JSON
	lines *lines // nil for IPFIX
	buf   []byte

	made, observed, lost atomic.Uint64
	flowsNow             atomic.Int64
}

// newOutput starts to send.
func newOutput(o *Options) *output {
	out := &output{sender: newSender("export "+o.Name(), o.QueueLimit, o.Log)}
	if o.Format == "ipfix" {
		out.ipfix = &IPFIX{Choice: o.Choice, Enterprise: o.Enterprise}
		out.start(newCollector(o.Destination, out.sender, out.ipfix, o.Domain, o.TemplateRefresh,
			func() (observed, lost uint64) { return out.observed.Load(), out.lost.Load() }))
		return out
	}
	out.json = &JSON{o.Choice}
	out.lines = &lines{to: o.Destination, sender: out.sender, openFile: o.OpenFile}
	if o.Destination.Syslog.IsValid() {
		out.lines.syslog = NewSyslog(o.Destination.TCP)
	}
	out.start(out.lines)
	return out
}

// record encodes r and queues it.
func (o *output) record(r *Record) {
	if o.ipfix != nil {
		o.buf = o.ipfix.AppendRecords(o.buf, r, o.add)
		return
	}
	if !feature.JSON {
		return
	}
	if o.buf = o.json.AppendRecord(o.buf[:0], r); len(o.buf) > 0 {
		o.add(0, o.buf)
	}
}

func (o *output) add(id uint16, record []byte) {
	o.made.Add(1)
	o.queue.add(id, record)
}

// eventsLost records that the kernel has dropped n events.
func (o *output) eventsLost(n uint64, at time.Time) {
	o.lost.Add(n)
	if o.json != nil {
		o.buf = AppendLost(o.buf[:0], at.UnixNano(), "messages", n)
		o.queue.add(0, o.buf)
	}
}

// reopen has a file opened again by its name: it may have been rotated. Any goroutine may call
// it.
func (o *output) reopen() {
	if o.lines != nil && o.lines.to.File != "" {
		o.lines.reopen.Store(true)
		o.queue.signal()
	}
}

// Status is what an exporter has done since its start.
type Status struct {
	Name       string
	Made       uint64 // records
	Sent       uint64 // records
	Queued     uint64 // records that wait
	ThrownAway uint64 // records for which the queue had no room
	// Resent are the sent records that were sent again over the next TCP connection, since the
	// collector had not acknowledged them. It may have them twice.
	Resent     uint64
	Messages   uint64 // IPFIX messages, datagrams or writes that carried them
	Failures   uint64 // of connections, writes and files
	Reconnects uint64 // connections and files opened after the first
	EventsLost uint64 // by the kernel
	Flows      uint64 // begun or found
	FlowsNow   uint64 // in the exporter's table
	Error      string // why nothing can be sent now; "" while it can
}

// status returns the counters. Any goroutine may call it.
func (o *output) status() Status {
	waiting, thrown, _ := o.queue.state()
	s := Status{
		Made: o.made.Load(), Sent: o.count.records.Load(), Queued: uint64(waiting), ThrownAway: thrown,
		Resent:   o.count.resent.Load(),
		Messages: o.count.messages.Load(), Failures: o.count.failures.Load(), Reconnects: max(o.count.opened.Load(), 1) - 1,
		EventsLost: o.lost.Load(), Flows: o.observed.Load(), FlowsNow: uint64(o.flowsNow.Load()),
	}
	if err := o.failure(); err != nil {
		s.Error = err.Error()
	}
	return s
}
