package conntrack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/internal/feature"
	"ctbox/internal/netns"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// events prints events until the context ends. Package ctnetlink reads the socket in a
// goroutine. Events that the kernel could not deliver are counted and reported.
func (s *session) events(c *Command) (uint64, error) {
	if feature.AllNetNS && c.Has(OptAllNetNS) {
		return s.allEvents(c)
	}
	opts := eventOptions(c)
	opts.NetNS = s.netns.FD()
	sub, err := ctnetlink.Subscribe(opts)
	if err != nil {
		return 0, s.cannotListen(c, err)
	}
	defer sub.Close()
	if s.noConntrack() {
		// The kernel accepts the subscription even without nf_conntrack_netlink.
		return 0, &refusal{op: c.Op, table: c.Table, err: unix.EINVAL, hint: hintNoConntrack}
	}
	s.reportBuffer(c, sub.Buffer())

	w := &watcher{session: s, printer: newPrinter(s.out, c), filter: newFilter(c), expect: c.Table == TableExpect, turn: new(sync.Mutex)}
	w.names.netns = s.netns
	err = w.watch(s.ctx, sub)
	if end := w.printer.finish(); err == nil {
		err = end
	}
	return w.printer.entries, err
}

// allListeners prints the events of the caller's own network namespace and of all that
// have a name.
//
// Each namespace has a socket. One socket for all (NETLINK_LISTEN_ALL_NSID) would miss
// those to which no id is assigned, and by default a kernel makes events only for flows
// that begin while the namespace has a listener of its own (nf_conntrack_events=2).
type allListeners struct {
	*session
	cmd     *Command
	printer *printer
	turn    sync.Mutex // of who prints
	heard   map[netns.ID]*namespaceListener
	ended   chan *namespaceListener
	failed  map[string]bool // names of the namespaces that are not heard
}

// namespaceListener prints the events of one namespace. stop makes it print what has arrived, and
// end.
type namespaceListener struct {
	id      netns.ID
	watcher *watcher
	stop    context.CancelFunc
	err     error // once it has ended
}

// shareOfAll is the part of the memory for events of one namespace that each of all has.
const shareOfAll = 8

// allEvents prints the events of all network namespaces until the context ends, of new
// ones from when they get their name, and of others until they lose it.
func (s *session) allEvents(c *Command) (uint64, error) {
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	if s.noConntrack() {
		return 0, &refusal{op: c.Op, table: c.Table, err: unix.EINVAL, hint: hintNoConntrack}
	}
	changed, err := netns.Watch(ctx)
	if err != nil {
		return 0, fmt.Errorf("--all-netns: %w", err)
	}
	a := &allListeners{session: s, cmd: c, printer: newPrinter(s.out, c), heard: make(map[netns.ID]*namespaceListener),
		ended: make(chan *namespaceListener), failed: make(map[string]bool)}
	err = a.update(true)
	for err == nil && s.ctx.Err() == nil {
		select {
		case <-changed:
			err = a.update(false)
		case l := <-a.ended:
			if err = a.remove(l); err == nil {
				err = a.update(false) // it may have got a name again
			}
		case <-s.ctx.Done():
		}
	}
	for _, l := range a.heard {
		l.stop()
	}
	for len(a.heard) > 0 {
		if end := a.remove(<-a.ended); err == nil {
			err = end
		}
	}
	if end := a.printer.finish(); err == nil {
		err = end
	}
	return a.printer.entries, err
}

// update listens in namespaces that are new, and no longer in those without a name. A
// namespace that cannot be listened in is an error at first, and a warning later.
func (a *allListeners) update(first bool) error {
	all, failed := netns.Named()
	named := make(map[netns.ID]bool)
	own, err := netns.Own()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, (*netns.Namespace).IsOwn) {
		all = append(all, nil)
	}
	for _, ns := range all {
		id := own
		if ns != nil {
			id = ns.ID()
		}
		named[id] = true
		if l := a.heard[id]; l != nil {
			a.turn.Lock()
			l.watcher.name = ns.Name()
			a.turn.Unlock()
			ns.Close()
		} else if err := a.listen(id, ns); err != nil && first && ns.IsOwn() {
			return a.cannotListen(a.cmd, err)
		} else if err != nil {
			failed[ns.Name()] = err
			ns.Close()
		}
	}
	for id, l := range a.heard {
		if !named[id] {
			l.stop() // and removed when it has ended
		}
	}
	if first {
		return namespaceError(failed)
	}
	for name, err := range failed {
		if !a.failed[name] {
			a.warn("WARNING: network namespace %s is not heard: %v", name, err)
		}
	}
	a.failed = make(map[string]bool)
	for name := range failed {
		a.failed[name] = true
	}
	return nil
}

// listen starts to print the events of a namespace, whose descriptor the listener closes.
func (a *allListeners) listen(id netns.ID, ns *netns.Namespace) error {
	opts := eventOptions(a.cmd)
	opts.NetNS = ns.FD()
	buffer, backlog := ctnetlink.DefaultEvents(ctnetlink.KernelMemory())
	if opts.Buffer == 0 {
		opts.Buffer = buffer / shareOfAll
	}
	if opts.Backlog == 0 {
		opts.Backlog = backlog / shareOfAll
	}
	sub, err := ctnetlink.Subscribe(opts)
	if err != nil {
		return err
	}
	if a.cmd.Has(OptBufferSize) && len(a.heard) == 0 {
		a.reportBuffer(a.cmd, sub.Buffer())
	}
	ctx, stop := context.WithCancel(a.ctx)
	l := &namespaceListener{id: id, stop: stop, watcher: &watcher{session: a.session, printer: a.printer, filter: newFilter(a.cmd),
		expect: a.cmd.Table == TableExpect, turn: &a.turn, name: ns.Name()}}
	l.watcher.names.netns = ns
	a.heard[id] = l
	go func() {
		l.err = l.watcher.watch(ctx, sub)
		stop()
		sub.Close()
		ns.Close()
		a.ended <- l
	}()
	return nil
}

// remove forgets a listener that has ended. A failure to write ends the others, too; one
// to read is that of one namespace.
func (a *allListeners) remove(l *namespaceListener) error {
	delete(a.heard, l.id)
	var write *writeError
	if l.err == nil || errors.As(l.err, &write) {
		return l.err
	}
	a.warn("WARNING: network namespace %s is no longer heard: %v", l.watcher.name, l.err)
	return nil
}

// watch prints events until the context ends, including those that happened before, and
// what was lost. It also ends when standard output fails.
func (w *watcher) watch(until context.Context, sub *ctnetlink.Subscription) error {
	if !sub.CountsDrops() {
		w.atLeast = "at least "
	}
	err := w.follow(until, sub)
	w.turn.Lock()
	defer w.turn.Unlock()
	w.reportLoss(true)
	return err
}

func (w *watcher) follow(until context.Context, sub *ctnetlink.Subscription) error {
	ctx, stop := context.WithCancel(until)
	defer stop()
	go func(done <-chan struct{}) {
		select {
		case <-w.out.broken:
			stop()
		case <-done:
		}
	}(ctx.Done())
	left := false
	var run *ctnetlink.Events
	for {
		var err error
		if !left && until.Err() != nil {
			// main allows a few seconds for the rest.
			ctx, left = context.WithoutCancel(until), true
			if err = sub.Leave(); err != nil {
				return err
			}
		}
		run, err = sub.Next(ctx, run)
		switch {
		case err == nil:
			err = w.take(run)
		case !left && until.Err() != nil:
			continue
		case !left && ctx.Err() != nil:
			w.turn.Lock()
			defer w.turn.Unlock()
			return w.out.flush() // returns why it cannot be written
		case left && errors.Is(err, io.EOF):
			return nil
		}
		var write *writeError
		if err != nil && !errors.As(err, &write) {
			err = &failure{"failed to received netlink event", err} // sic
		}
		if err != nil {
			return err
		}
	}
}

func eventOptions(c *Command) ctnetlink.EventOptions {
	opts := ctnetlink.EventOptions{Groups: ctnetlink.AllExpectEvents}
	if c.Table != TableExpect {
		opts.Groups = eventGroups(c)
		opts.Filter = eventFilter(c)
	}
	if c.Has(OptBufferSize) {
		opts.Buffer = int(min(max(c.BufferSize, 1), math.MaxInt32))
	}
	if c.Has(OptQueueSize) {
		opts.Backlog = int(min(c.QueueSize, math.MaxInt32))
	}
	return opts
}

// eventGroups returns the groups of -e. A list with only ignored words joins no group
// and shows nothing.
func eventGroups(c *Command) ctnetlink.Group {
	if !c.Has(OptEventMask) {
		return ctnetlink.AllFlowEvents
	}
	var groups ctnetlink.Group
	for _, g := range [...]struct {
		event Events
		group ctnetlink.Group
	}{{EventNew, ctnetlink.GroupFlowNew}, {EventUpdate, ctnetlink.GroupFlowUpdate}, {EventDestroy, ctnetlink.GroupFlowDestroy}} {
		if c.Events&g.event != 0 {
			groups |= g.group
		}
	}
	return groups
}

func (s *session) cannotListen(c *Command, err error) error {
	if isErrno(err, unix.EPERM) {
		r := refusal{op: c.Op, table: c.Table, err: unix.EPERM}
		err = errors.New(r.text())
	}
	return &failure{"Can't open netlink socket", err}
}

// reportBuffer prints the size of the socket's buffer if the user asked for one, or if
// the kernel granted less than a busy machine needs.
func (s *session) reportBuffer(c *Command, granted int) {
	wanted, _ := ctnetlink.DefaultEvents(ctnetlink.KernelMemory())
	switch {
	case c.Has(OptBufferSize):
		s.warn("NOTICE: Netlink socket buffer size has been set to %d bytes.", granted)
	case granted < wanted:
		s.warn("NOTICE: Netlink socket buffer size has been set to %d bytes; net.core.rmem_max allows no more.", granted)
	}
}

// watcher prints the events that match.
type watcher struct {
	*session
	printer *printer
	filter  *filter
	expect  bool
	flow    ctnetlink.Flow
	expects ctnetlink.Expect
	event   format.Event
	names   programNames
	turn    *sync.Mutex // of who prints: watchers may share a printer
	name    string      // of the network namespace, guarded by turn; "" if it is the caller's own

	atLeast    string    // precedes the number of lost events, where the kernel does not count them
	dropped    uint64    // by the kernel, so far
	reported   uint64    // of these, on stderr
	reportedAt time.Time // when
}

// lossEvery is the minimum time between two reports of losses. Every loss is reported.
const lossEvery = time.Second

// take prints a run of events and what was lost by its end, and passes it to the writer
// at once, without waiting for a full chunk.
func (w *watcher) take(run *ctnetlink.Events) error {
	w.turn.Lock()
	defer w.turn.Unlock()
	if err := run.Each(w.print); err != nil {
		return err
	}
	if run.Dropped != w.dropped {
		if feature.JSON && w.printer.style.Format == format.JSON {
			e := format.Event{Time: time.Now().UnixNano(), NetNS: w.name}
			w.out.buf = append(format.AppendLostJSON(w.out.buf, run.Dropped-w.dropped, &e), '\n')
		}
		w.dropped = run.Dropped
		w.reportLoss(false)
	}
	return w.out.flush()
}

func (w *watcher) print(m *nl.Message, received time.Time) error {
	if ctnetlink.IsExpect(m) != w.expect {
		return nil
	}
	w.event = format.Event{Type: eventType(m), Time: received.UnixNano(), PortID: m.PortID, NetNS: w.name}
	w.printer.style.Now = w.event.Time
	if w.expect {
		if err := w.expects.Decode(m.Attrs); err != nil {
			return err
		}
		w.event.Progname = w.names.lookup(m.PortID, received)
		return w.printer.expect(&w.expects, &w.event)
	}
	if err := w.flow.Decode(m.Attrs); err != nil {
		return err
	}
	if !w.filter.match(&w.flow) {
		return nil
	}
	if w.flow.Has&ctnetlink.HasTimestampEvent != 0 {
		w.event.Time = int64(w.flow.TimestampEvent)
	}
	w.event.Progname = w.names.lookup(m.PortID, received)
	return w.printer.flow(&w.flow, &w.event)
}

func eventType(m *nl.Message) format.EventType {
	switch {
	case ctnetlink.IsDelete(m):
		return format.Destroy
	case ctnetlink.IsNew(m):
		return format.New
	}
	return format.Update
}

// reportLoss prints how many events were lost since the last report: the first time at
// once, then at most every lossEvery, and the rest at the end.
func (w *watcher) reportLoss(end bool) {
	if w.dropped == w.reported || !end && w.reported != 0 && time.Since(w.reportedAt) < lossEvery {
		return
	}
	if w.reported == 0 {
		w.warn("WARNING: We have hit ENOBUFS! We are losing events.")
		w.warn("This message means that the current netlink socket buffer size is too small.")
		w.warn("Please, check --buffer-size in conntrack(8) manpage.")
	}
	where := ""
	if w.name != "" {
		where = " in network namespace " + w.name
	}
	w.warn("WARNING: %s%d events lost%s, %d in all.", w.atLeast, w.dropped-w.reported, where, w.dropped)
	w.reported, w.reportedAt = w.dropped, time.Now()
}

// programNames finds the names of the programs behind netlink ports. It caches each
// result, found or not, for a second: searching /proc for every event would cost more
// than the event.
type programNames struct {
	netns *netns.Namespace // of the ports
	known map[uint32]programName
}

type programName struct {
	name string
	at   time.Time
}

const (
	portNameAge  = time.Second
	maxPortNames = 1024
)

// lookup returns the name of the program that owns the port, "" if it has ended or the
// port is the kernel's.
func (p *programNames) lookup(port uint32, now time.Time) string {
	if port == 0 {
		return ""
	}
	if n, ok := p.known[port]; ok && now.Sub(n.at) < portNameAge {
		return n.name
	}
	if p.known == nil || len(p.known) >= maxPortNames {
		p.known = make(map[uint32]programName)
	}
	n := programName{at: now}
	var inode string
	ok := false
	if err := p.netns.Do(func() error { inode, ok = portInode(port); return nil }); err == nil && ok {
		n.name = socketOwner(port, inode)
	}
	p.known[port] = n
	return n.name
}

// netlinkNetfilter is the protocol number in /proc/net/netlink.
const netlinkNetfilter = "12"

// portInode returns the inode of the nfnetlink socket with the port in the calling
// thread's namespace, from /proc/net/netlink: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
func portInode(port uint32) (string, bool) {
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		return "", false
	}
	want := strconv.FormatUint(uint64(port), 10)
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) >= 10 && string(f[1]) == netlinkNetfilter && string(f[2]) == want {
			return string(f[9]), true
		}
	}
	return "", false
}

// socketOwner returns the name of a process that has the socket open. A socket's port
// is usually the id of the process that opened it.
func socketOwner(port uint32, inode string) string {
	link := "socket:[" + inode + "]"
	if pid := strconv.FormatUint(uint64(port), 10); hasOpen(pid, link) {
		return processName(pid)
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return ""
	}
	defer proc.Close()
	pids, _ := proc.Readdirnames(-1)
	for _, pid := range pids {
		if pid[0] >= '1' && pid[0] <= '9' && hasOpen(pid, link) {
			return processName(pid)
		}
	}
	return ""
}

func hasOpen(pid, link string) bool {
	dir, err := os.Open("/proc/" + pid + "/fd")
	if err != nil {
		return false
	}
	defer dir.Close()
	fds, _ := dir.Readdirnames(-1)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/" + pid + "/fd/" + fd); err == nil && to == link {
			return true
		}
	}
	return false
}

// processName returns the name between the parentheses of /proc/PID/stat.
func processName(pid string) string {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	from, to := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if from < 0 || to < from {
		return ""
	}
	return string(stat[from+1 : to])
}
