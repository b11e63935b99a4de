package commit

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/loglimit"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// Injector applies the peers' changes to the kernel at once (DisableExternalCache; Standby is
// based on it). It has its own goroutine and socket. The links' readers pass it slices of orders, and stop
// reading while too many wait.
type Injector struct {
	log     daemonlog.Log
	sched   *sched.Scheduler
	restore restorer          // of the configuration in force; guarded by the lock of sched
	late    func(*order) bool // takes an order whose flow's master is missing; nil without Standby
	seen    ctnetlink.Flow    // reused
	conn    *nl.Conn
	orders  chan []order
	spare   chan []order
	next    []order // being filled; guarded by the lock of sched

	mu             sync.Mutex
	flows, expects cache.TableStatus // guarded by mu
	named          *loglimit.Limit[struct{}, struct{}]
}

// order is one change. Exactly one of flow and expect counts.
type order struct {
	typ    wire.Type
	flow   ctnetlink.Flow
	expect ctnetlink.Expect
	// The peer sent no timeout (its CommitTimeout): flow has one only for its creation.
	untimed bool
	renewal bool  // of Standby: an update or an end that begins with a look
	late    uint8 // how often it has waited for its flow's master
}

// While injectFull slices wait, the links' readers stop. The queue also has room for what a reader delivers
// at once, up to 20 slices, so that nothing waits for the kernel while it holds the lock.
const (
	injectSlice = 128
	injectFull  = 15 // slices
	injectQueue = 40 // slices
)

// NewInjector returns an Injector, which does nothing before Run.
func NewInjector(s *sched.Scheduler, log daemonlog.Log, cfg *conf.Sync) (*Injector, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nil, err
	}
	i := &Injector{log: log, sched: s, restore: newRestorer(cfg), conn: c,
		orders: make(chan []order, injectQueue), spare: make(chan []order, injectQueue)}
	i.named = loglimit.New[struct{}](namedMost, namedPeriod, i.warnUnnamed)
	return i, nil
}

// Close closes the socket and logs what was held back.
func (i *Injector) Close() {
	i.conn.Close()
	i.named.Close()
}

// PortID returns the port id of the socket that changes the kernel's tables.
func (i *Injector) PortID() uint32 { return i.conn.PortID() }

// Reconfigure puts another Sync in force.
func (i *Injector) Reconfigure(cfg *conf.Sync) { i.restore = newRestorer(cfg) }

// Full reports whether the links' readers should wait.
func (i *Injector) Full() bool { return len(i.orders) >= injectFull }

// Flow and Expect add a peer's change to the slice being filled; Hand passes the slice on.
func (i *Injector) Flow(change wire.Type, f *ctnetlink.Flow) {
	o := i.add(change)
	i.restore.flow(&o.flow, f, 0)
	detach(&o.flow)
	o.untimed = f.Has&ctnetlink.HasTimeout == 0
}

// Withdrawn removes a flow that a peer no longer announces.
func (i *Injector) Withdrawn(f *ctnetlink.Flow) { i.Flow(wire.FlowDelete, f) }

// Adopt does nothing: without an external cache no flow has another owner.
func (i *Injector) Adopt(*ctnetlink.Flow) {}

// Expect is Flow for an expectation.
func (i *Injector) Expect(change wire.Type, e *ctnetlink.Expect) {
	o := i.add(change)
	i.restore.expect(&o.expect, e, 0)
}

func (i *Injector) add(typ wire.Type) *order {
	if len(i.next) == cap(i.next) {
		i.Hand()
		select {
		case i.next = <-i.spare:
		default:
			i.next = make([]order, 0, injectSlice)
		}
	}
	i.next = i.next[:len(i.next)+1]
	o := &i.next[len(i.next)-1]
	o.typ = typ
	return o
}

// Hand gives the noted orders to the injector's goroutine.
func (i *Injector) Hand() {
	if len(i.next) == 0 {
		return
	}
	select {
	case i.orders <- i.next:
	case <-i.sched.Context().Done():
	}
	i.next = nil
}

// Run carries out orders until ctx ends, without the lock.
func (i *Injector) Run(ctx context.Context) {
	for {
		select {
		case orders := <-i.orders:
			if err := i.carryOut(ctx, orders); err != nil && ctx.Err() == nil {
				i.log.Error("inject: " + err.Error())
			}
			select {
			case i.spare <- orders[:0]:
			default:
			}
		case <-ctx.Done():
			return
		}
	}
}

// attempt is one way to carry out an order; a failure may lead to another attempt.
type attempt uint8

const (
	plain     attempt = iota // create, update or delete, as the peer announced it
	creation                 // an update of what isn't there
	anew                     // delete, then create
	look                     // of Standby: what has the kernel?
	extension                // of a renewal: the timeout
)

// trial is an order's place in a batch.
type trial struct {
	order   int
	attempt attempt
	removal bool // the delete before a creation
}

// carryOut does one slice of orders: all at once, then again those that failed
// and that no later order of the slice overtakes. Where an update overtakes a creation
// that met another flow it has updated that one: it makes the flow anew itself.
func (i *Injector) carryOut(ctx context.Context, orders []order) error {
	last := make(map[orderKey]int, len(orders))
	todo := make([]trial, 0, len(orders))
	for at := range orders {
		last[keyOf(&orders[at])] = at
		first := plain
		if orders[at].renewal {
			first = look
		}
		todo = append(todo, trial{order: at, attempt: first})
	}
	for len(todo) > 0 {
		var again []trial
		p := i.conn.NewPipeline(ctx, func(b *nl.Batch) error {
			again = append(again, i.judge(orders, b)...)
			return i.judgeLooks(orders, b, &again)
		})
		if err := cmp.Or(submitTrials(p, orders, todo), p.Close()); err != nil {
			return err
		}
		todo = todo[:0]
		retried := map[int]bool{}
		for _, t := range again {
			if last[keyOf(&orders[t.order])] == t.order {
				todo = append(todo, t)
				retried[t.order] = true
			}
		}
		for _, t := range again {
			at := last[keyOf(&orders[t.order])]
			if orders[t.order].typ == wire.FlowNew && orders[at].typ == wire.FlowUpdate && !retried[at] {
				orders[at].typ = wire.FlowNew
				todo = append(todo, trial{order: at, attempt: anew})
			}
		}
	}
	return nil
}

// orderKey identifies the object of an order. A peer's flow has no id.
type orderKey struct {
	expect bool
	ctnetlink.FlowKey
}

func keyOf(o *order) orderKey {
	if o.typ.IsExpect() {
		return orderKey{true, ctnetlink.FlowKey{Orig: o.expect.Tuple, Zone: o.expect.Zone}}
	}
	return orderKey{false, o.flow.Key()}
}

// submitTrials sends the requests of todo.
func submitTrials(p *nl.Pipeline, orders []order, todo []trial) error {
	b, err := p.Batch()
	if err != nil {
		return err
	}
	tag := []trial{}
	for _, t := range todo {
		o := &orders[t.order]
		requests, removal := o.requests(t.attempt)
		for k, request := range requests {
			b.Add(request)
			tag = append(tag, trial{order: t.order, attempt: t.attempt, removal: removal && k == 0})
		}
		if b.Full() {
			b.Tag = tag
			if err := p.Submit(b); err != nil {
				return err
			}
			if b, err = p.Batch(); err != nil {
				return err
			}
			tag = []trial{}
		}
	}
	b.Tag = tag
	return p.Submit(b)
}

// requests returns the requests of one attempt; removal says that the first of them only
// makes room.
func (o *order) requests(a attempt) (requests []nl.Request, removal bool) {
	const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	var typ, gone nl.Type
	request := nl.Request{}
	if o.typ.IsExpect() {
		typ, gone = ctnetlink.TypeExpectNew, ctnetlink.TypeExpectDelete
		request.Family, request.Attrs = o.expect.Tuple.Family, o.expect.Append
	} else {
		typ, gone = ctnetlink.TypeFlowNew, ctnetlink.TypeFlowDelete
		request.Family, request.Attrs = o.flow.Orig.Family, o.flow.Append
	}
	if a == anew || a != look && (o.typ == wire.FlowDelete || o.typ == wire.ExpectDelete) {
		named := request
		named.Type = gone
		if o.typ.IsExpect() {
			expect := &ctnetlink.Expect{Tuple: o.expect.Tuple, Has: o.expect.Has & ctnetlink.ExpectHasZone, Zone: o.expect.Zone}
			named.Attrs = expect.Append
		} else {
			flow := &ctnetlink.Flow{}
			key(flow, &o.flow)
			named.Attrs = flow.Append
		}
		if a != anew {
			return []nl.Request{named}, false
		}
		requests, removal = append(requests, named), true
	}
	request.Type, request.Flags = typ, create
	switch {
	case a == look:
		flow := &ctnetlink.Flow{}
		key(flow, &o.flow)
		return []nl.Request{{Type: ctnetlink.TypeFlowGet, Family: request.Family, Attrs: flow.Append}}, false
	case a == extension:
		flow := &ctnetlink.Flow{}
		key(flow, &o.flow)
		flow.Has |= ctnetlink.HasTimeout
		flow.Timeout = o.flow.Timeout
		request.Flags, request.Attrs = 0, flow.Append
	case a == plain && o.typ == wire.FlowUpdate:
		request.Flags = 0
		changed := &ctnetlink.Flow{}
		changes(changed, &o.flow)
		if o.untimed {
			changed.Has &^= ctnetlink.HasTimeout
		}
		request.Attrs = changed.Append
	}
	return append(requests, request), removal
}

// judge counts the results of a batch and returns the orders to retry another way.
func (i *Injector) judge(orders []order, b *nl.Batch) (again []trial) {
	i.mu.Lock()
	defer i.mu.Unlock()
	failures := b.Failures()
	for at, t := range b.Tag.([]trial) {
		var err error
		if len(failures) > 0 && failures[0].Index == at {
			err = failures[0].Err
			failures = failures[1:]
		}
		o := &orders[t.order]
		status := &i.flows
		if o.typ.IsExpect() {
			status = &i.expects
		}
		switch {
		case t.removal:
			// The creation behind it shows whether the removal helped.
		case t.attempt == look && err == nil: // judgeLooks has the answer
		case o.typ == wire.FlowDelete || o.typ == wire.ExpectDelete:
			if err == nil {
				status.Destroyed++
			} else if !errors.Is(err, unix.ENOENT) {
				status.DestroyFailed++
				i.warn(o.pick("could not destroy ct entry", "could not delete exp entry"), o, err)
			}
		case (t.attempt == look || t.attempt == extension) && errors.Is(err, unix.ENOENT):
			again = append(again, trial{order: t.order, attempt: creation})
		case o.typ == wire.FlowUpdate && err == nil:
			status.Updated++
		case err == nil:
			status.Created++
		case t.attempt == plain && o.typ == wire.FlowUpdate && errors.Is(err, unix.ENOENT):
			again = append(again, trial{order: t.order, attempt: creation})
		case t.attempt == plain && o.typ == wire.FlowUpdate,
			t.attempt != anew && errors.Is(err, unix.EEXIST):
			again = append(again, trial{order: t.order, attempt: anew})
		case i.late != nil && errors.Is(err, unix.ENOENT) && hasMaster(&o.flow) && i.late(o):
		case o.typ == wire.FlowUpdate:
			status.UpdateFailed++
			i.warn(updateTexts[t.attempt], o, err)
		default:
			status.CreateFailed++
			text := o.pick("could not add new ct entry", "could not add new exp entry")
			if t.attempt == anew {
				text += ", even when deleting it first"
			}
			i.warn(text, o, err)
		}
	}
	return again
}

// updateTexts are conntrack-tools' words for an update that failed.
var updateTexts = [...]string{
	plain:     "could not update ct entry",
	creation:  "could not update ct entry, even if creating it instead",
	anew:      "could not update ct entry, even when deleting it first",
	look:      "could not look up ct entry",
	extension: "could not update the timeout of ct entry",
}

func (o *order) pick(flow, expect string) string {
	if o.typ.IsExpect() {
		return expect
	}
	return flow
}

// A peer that sends what the kernel refuses, or a table that is full, does not fill the
// disk: the log names so many refused entries in a while, the counters have all.
const (
	namedMost   = 10
	namedPeriod = time.Minute
)

// warnUnnamed logs how many entries the kernel refused beside those named.
func (i *Injector) warnUnnamed(_ struct{}, more uint64) {
	i.log.Warn("the kernel has refused " + strconv.FormatUint(more, 10) + " more entries of the peer")
}

// warn logs an order that the kernel refused.
func (i *Injector) warn(text string, o *order, err error) {
	if !i.named.Admit(struct{}{}, struct{}{}) {
		return
	}
	var line string
	if o.typ.IsExpect() {
		line = daemonlog.ExpectLine(&o.expect)
	} else {
		line = daemonlog.FlowLine(&o.flow)
	}
	i.log.Warn(text+": "+nl.Strerror(err), daemonlog.EntryKey, line)
}

// Status returns the counters of this moment.
func (i *Injector) Status() (flows, expects cache.TableStatus) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.flows, i.expects
}
