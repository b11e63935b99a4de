package export

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/follow"
	"ctbox/sync/sched"
)

// Exporter records the flows of the network namespace in which it was made. New makes it, Run
// runs it; the other methods may be called by any goroutine.
type Exporter struct {
	options Options
	general conf.General // the daemon's, with the exporter's filter
	out     *output

	source *source // the one that runs; Run replaces it
}

// source follows the kernel for an exporter. The fields are guarded by the lock of sched.
type source struct {
	exporter *Exporter
	out      *output
	sched    *sched.Scheduler
	follower *follow.Follower
	flows    *cache.Flows
	interim  *sched.Timer

	// ends are the flows whose end was made up: the event of the end may still come. Those in
	// before are older than a generation.
	ends, before map[endKey]struct{}
	began        time.Duration // of the generation, on the scheduler's clock
}

// endKey identifies a flow that has ended.
type endKey struct {
	orig ctnetlink.Tuple
	id   uint32
}

const (
	// generation is the least time for which ends that were made up are remembered.
	generation = time.Minute
	// mostEnds bounds their number.
	mostEnds = 1 << 16
	// again is the delay after an error of the event socket.
	again = time.Second
)

// New returns an exporter that has subscribed to the kernel's events, so that it misses nothing
// from now on, and sends what it records. general is the daemon's configuration, but for the
// filter, which is the exporter's own.
func New(o Options, general *conf.General, filter *conf.Filter) (*Exporter, error) {
	e := &Exporter{options: o, general: *general}
	e.general.Filter = *filter
	e.general.PollInterval = 0
	if e.general.NetlinkOverrunResync == 0 {
		e.general.NetlinkOverrunResync = conf.Default().General.NetlinkOverrunResync
	}
	if err := follow.Probe(context.Background()); err != nil {
		return nil, fmt.Errorf("export %s: %w", o.Name(), err)
	}
	e.out = newOutput(&e.options)
	source, err := e.open()
	if err != nil {
		e.out.stop()
		return nil, fmt.Errorf("export %s: %w", o.Name(), err)
	}
	e.source = source
	return e, nil
}

// open subscribes to the kernel's events.
func (e *Exporter) open() (*source, error) {
	s := &source{exporter: e, out: e.out}
	log := daemonlog.Log{Logger: slog.New(prefixed{e.options.Log.Handler(), "export " + e.options.Name() + ": "})}
	s.flows = cache.NewFlows(cache.Config{Limit: int(e.general.HashLimit), Buckets: int(e.general.HashSize)})
	s.sched = sched.New(func() { e.out.flowsNow.Store(int64(s.flows.Len())) }, func(what string, err error) { log.Error(what + ": " + err.Error()) })
	side := cache.Side{Flows: s.flows}
	config := follow.Config{General: &e.general, Cache: side, Announcer: follow.Local{Cache: side}, Recorder: s,
		LifeOnly: lifeOnly(&e.general.Filter)}
	if len(e.options.Injectors) > 0 {
		config.Skip = func(f *ctnetlink.Flow) bool { return passing(f) == passedNever }
	}
	s.follower = follow.New(s.sched, log, config)
	for _, port := range e.options.Injectors {
		s.follower.Ignore(port)
	}
	s.interim = s.sched.NewTimer(s.recordInterim)
	if err := s.follower.Open(); err != nil {
		s.follower.Close()
		return nil, err
	}
	return s, nil
}

// passage is whether packets have passed a flow in this kernel.
type passage uint8

const (
	passedUnknown passage = iota // net.netfilter.nf_conntrack_acct was off when the flow began
	passedNever
	passed
)

func passing(f *ctnetlink.Flow) passage {
	switch {
	case f.Has&(ctnetlink.HasCountersOrig|ctnetlink.HasCountersReply) == 0:
		return passedUnknown
	case f.CountersOrig.Packets == 0 && f.CountersReply.Packets == 0:
		return passedNever
	}
	return passed
}

// isOthers reports whether the end of a flow, which was not known, is that of another node's flow that was brought
// into this kernel and that no packet has passed, as far as the kernel says.
func (s *source) isOthers(f *ctnetlink.Flow, portID uint32) bool {
	injectors := s.exporter.options.Injectors
	if len(injectors) == 0 {
		return false
	}
	p := passing(f)
	return p == passedNever || p == passedUnknown && slices.Contains(injectors, portID)
}

// lifeOnly reports whether a flow that passes the filter when it begins passes it until it ends.
func lifeOnly(f *conf.Filter) bool {
	return f.State.Action == conf.NoAction && f.Mark.Action == conf.NoAction
}

// Run records flows until ctx ends, and then delivers what is queued, as far as the destination
// takes it soon.
func (e *Exporter) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := e.source.run(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		e.options.Log.Error(fmt.Sprintf("export %s: %v; it begins again", e.options.Name(), err))
		for e.source = nil; e.source == nil && ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-time.After(again):
				e.source, _ = e.open()
			}
		}
	}
	if left := e.out.stop(); left > 0 {
		e.options.Log.Warn(fmt.Sprintf("export %s: %d records could not be sent before the end", e.options.Name(), left))
	}
}

// Close ends an exporter that Run was not called for.
func (e *Exporter) Close() {
	e.source.follower.Close()
	e.out.stop()
}

// Reopen has a file opened again by its name, after it was rotated.
func (e *Exporter) Reopen() { e.out.reopen() }

// Status returns the counters of this moment.
func (e *Exporter) Status() Status {
	status := e.out.status()
	status.Name = e.options.Name()
	return status
}

func (s *source) run(ctx context.Context) error {
	return s.sched.Run(ctx, func() {
		s.follower.Begin(func() {})
		if s.exporter.options.ActiveTimeout > 0 && s.exporter.options.Choice.Flow {
			s.interim.After(s.exporter.options.ActiveTimeout)
		}
	}, s.follower.Close)
}

// record makes the records of a flow.
func (s *source) record(f *ctnetlink.Flow, kind Kind, origin Origin, at time.Time, portID uint32) {
	r := Record{Flow: f, Kind: kind, Origin: origin, Time: at.UnixNano(), PortID: portID}
	if f.Has&ctnetlink.HasTimestampEvent != 0 && f.TimestampEvent != 0 {
		r.Time = int64(f.TimestampEvent)
	}
	s.out.record(&r)
}

// origin returns how a record with that cause came about.
func origin(c follow.Cause) Origin {
	switch {
	case c.Event:
		return FromEvent
	case c.First:
		return Existing
	}
	return MadeUp
}

// FlowBegan implements follow.Recorder.
func (s *source) FlowBegan(f *ctnetlink.Flow, c follow.Cause) {
	s.out.observed.Add(1)
	s.record(f, Begin, origin(c), c.At, c.PortID)
}

// FlowEnded implements follow.Recorder.
func (s *source) FlowEnded(f *ctnetlink.Flow, c follow.Cause, known bool) {
	key := endKey{f.Orig, f.ID}
	switch {
	case !c.Event:
		s.remember(key)
	case !known && (s.isOthers(f, c.PortID) || s.remembers(key) || !s.follower.Filter().Passes(f, false)):
		return // the filter passes the end of each flow, since one that passed may have changed
	case !known:
		s.out.observed.Add(1)
	}
	s.record(f, End, origin(c), c.At, c.PortID)
}

func (s *source) remember(key endKey) {
	if now := s.sched.Now(); s.ends == nil || now-s.began >= generation || len(s.ends) >= mostEnds {
		s.ends, s.before, s.began = map[endKey]struct{}{}, s.ends, now
	}
	s.ends[key] = struct{}{}
}

func (s *source) remembers(key endKey) bool {
	_, now := s.ends[key]
	_, before := s.before[key]
	return now || before
}

// EventsLost implements follow.Recorder.
func (s *source) EventsLost(n uint64) { s.out.eventsLost(n, time.Now()) }

// sliceLen is how many flows are recorded at once with the lock held.
const sliceLen = 256

// recordInterim records the flows that have lived for ActiveTimeout, spread over half of that
// time so that the records do not come all at once.
func (s *source) recordInterim() {
	period := s.exporter.options.ActiveTimeout
	s.interim.After(period)
	pause := period / 2 / time.Duration(s.flows.Len()/sliceLen+1)
	s.sched.Go(sched.KindAny, "records of flows that go on", func(ctx context.Context, t *sched.Task) error {
		c, err := nl.Dial(nl.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		slice := make([]ctnetlink.Flow, 0, sliceLen)
		hand := func() error {
			err := s.sched.Do(ctx, func() {
				for i := range slice {
					s.goesOn(&slice[i], period)
				}
				t.Done += uint64(len(slice))
			})
			slice = slice[:0]
			return err
		}
		_, err = c.Dump(ctx, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}.Request(), func(m *nl.Message) error {
			slice = slice[:len(slice)+1]
			if slice[len(slice)-1].Decode(m.Attrs) != nil {
				slice = slice[:len(slice)-1]
				return nil
			}
			if len(slice) < sliceLen {
				return nil
			}
			if err := hand(); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(pause):
				return nil
			}
		})
		if err != nil {
			return err
		}
		return hand()
	}, nil)
}

// goesOn records a flow of a dump that is old enough.
func (s *source) goesOn(f *ctnetlink.Flow, age time.Duration) {
	h := s.flows.Find(f)
	if h == 0 || !s.flows.IsSame(h, f) {
		return // its begin, or its end, is about to come
	}
	now := time.Now()
	if f.Has&ctnetlink.HasTimestampStart == 0 {
		var known ctnetlink.Flow
		if s.flows.Load(h, &known) && known.Has&ctnetlink.HasTimestampStart != 0 {
			f.TimestampStart, f.Has = known.TimestampStart, f.Has|ctnetlink.HasTimestampStart
		}
	}
	if f.Has&ctnetlink.HasTimestampStart != 0 && now.Sub(time.Unix(0, int64(f.TimestampStart))) < age {
		return
	}
	s.record(f, Interim, FromEvent, now, 0)
}

// prefixed is a log handler that puts an exporter's name in front of messages.
type prefixed struct {
	slog.Handler
	prefix string
}

func (p prefixed) Handle(ctx context.Context, r slog.Record) error {
	r.Message = p.prefix + r.Message
	return p.Handler.Handle(ctx, r)
}
