package conntrack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"strconv"
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

	w := &watcher{session: s, printer: newPrinter(s.out, c), filter: newFilter(c), expect: c.Table == TableExpect}
	w.names.netns = s.netns
	if !sub.CountsDrops() {
		w.atLeast = "at least "
	}
	err = w.watch(sub)
	w.reportLoss(true)
	if end := w.printer.finish(); err == nil {
		err = end
	}
	return w.printer.entries, err
}

// watch prints events until the context ends, including those that happened before.
// It also ends when standard output fails.
func (w *watcher) watch(sub *ctnetlink.Subscription) error {
	ctx, stop := context.WithCancel(w.ctx)
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
		if !left && w.ctx.Err() != nil {
			// main allows a few seconds for the rest.
			ctx, left = context.WithoutCancel(w.ctx), true
			if err = sub.Leave(); err != nil {
				return err
			}
		}
		run, err = sub.Next(ctx, run)
		switch {
		case err == nil:
			err = w.take(run)
		case !left && w.ctx.Err() != nil:
			continue
		case !left && ctx.Err() != nil:
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
	if err := run.Each(w.print); err != nil {
		return err
	}
	if run.Dropped != w.dropped {
		if feature.JSON && w.printer.style.Format == format.JSON {
			e := format.Event{Time: time.Now().UnixNano()}
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
	w.event = format.Event{Type: eventType(m), Time: received.UnixNano(), PortID: m.PortID}
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
	w.warn("WARNING: %s%d events lost, %d in all.", w.atLeast, w.dropped-w.reported, w.dropped)
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
