package conntrack

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"ctbox/applets/internal/screen"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// defaultRefresh is how often the table is read without --refresh.
const defaultRefresh = 2 * time.Second

// topJSONRows is how many keys an object of the stream has.
const topJSONRows = 20

// top shows what the flows that match do, until the context ends or the user
// has enough: painted on a terminal, else as a stream of JSON objects.
func (s *session) top(c *Command) error {
	t := &top{session: s, command: c, filter: newFilter(c), kind: c.TopKey, sort: c.TopSort,
		every: c.Refresh, fresh: make(chan error, 1), again: make(chan struct{}, 1)}
	if t.every == 0 {
		t.every = defaultRefresh
	}
	for _, table := range [...]**tallies{&t.next, &t.now, &t.before, &t.pending, &t.happened} {
		*table = new(tallies)
		(*table).reset()
	}
	sub, err := ctnetlink.Subscribe(ctnetlink.EventOptions{Groups: ctnetlink.GroupFlowNew | ctnetlink.GroupFlowDestroy, Filter: eventFilter(c)})
	if err != nil {
		return s.cannotListen(c, err)
	}
	defer sub.Close()

	ctx, stop := context.WithCancel(s.ctx)
	var gone sync.WaitGroup
	gone.Go(func() { t.listen(ctx, sub) })
	gone.Go(func() { t.read(ctx) })
	defer gone.Wait()
	defer stop()

	out, ok := s.stdout.(*os.File)
	if !ok || c.Output&OutJSON != 0 || !screen.IsTerminal(out) {
		return t.stream(ctx)
	}
	in, _ := s.stdin.(*os.File)
	scr, err := screen.Open(in, out)
	if err != nil {
		return &failure{"can't take the terminal", err}
	}
	defer scr.Close()
	return t.show(ctx, scr)
}

// top is the state of a --top. One goroutine reads the table, again and again,
// one takes the events, and a third, the caller's, shows.
type top struct {
	*session
	command *Command
	filter  *filter // the reader's
	every   time.Duration
	fresh   chan error    // from the reader: there is something new, or it has failed
	again   chan struct{} // to the reader: do not wait
	next    *tallies      // the reader's: the table as it is being read

	mu       sync.Mutex
	kind     uint8    // what is to be counted by
	shown    uint8    // what now, before and happened are counted by
	counting uint8    // what pending is counted by
	now      *tallies // the table as it was read last,
	before   *tallies // and the time before,
	happened *tallies // and what happened between the two
	pending  *tallies // what has happened since
	at       time.Time
	seconds  float64 // between now and before; 0 if before is no such thing
	lost     uint64  // events
	counted  bool    // some flow had counters
	sort     topColumn
}

// listen counts events until the context ends.
func (t *top) listen(ctx context.Context, sub *ctnetlink.Subscription) {
	var run *ctnetlink.Events
	var flow ctnetlink.Flow
	var k topKey
	filter := newFilter(t.command)
	for {
		var err error
		if run, err = sub.Next(ctx, run); err != nil {
			return // what there is to count is counted from the table alone
		}
		t.mu.Lock()
		kind := &topKinds[t.counting]
		_ = run.Each(func(m *nl.Message, _ time.Time) error {
			if flow.Decode(m.Attrs) == nil && filter.match(&flow) && (ctnetlink.IsNew(m) || ctnetlink.IsDelete(m)) {
				k = topKey{}
				kind.key(&k, &flow)
				t.pending.event(&k, &flow, ctnetlink.IsDelete(m))
			}
			return nil
		})
		t.lost = run.Dropped
		t.mu.Unlock()
	}
}

// read reads the table until the context ends or reading fails. A table that
// takes long to read is read half of the time at most.
func (t *top) read(ctx context.Context) {
	// The dump has a goroutine and buffers of its own each time: what is left
	// is constant.
	for {
		begun := time.Now()
		err := t.refresh()
		select {
		case t.fresh <- err:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
		took := time.Since(begun)
		wait := time.NewTimer(max(t.every-took, took))
		select {
		case <-wait.C:
		case <-t.again:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// refresh reads the table once.
func (t *top) refresh() error {
	t.mu.Lock()
	counting := t.kind
	if counting != t.counting {
		t.counting = counting
		t.pending.reset()
	}
	t.mu.Unlock()
	kind := &topKinds[counting]
	t.next.reset()
	var k topKey // one for all flows: it escapes
	_, err := t.dumpOnce(t.command, func(f *ctnetlink.Flow) error {
		if t.filter.match(f) {
			k = topKey{}
			kind.key(&k, f)
			t.next.flow(&k, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := time.Now()
	t.seconds = 0
	if t.shown == counting && !t.at.IsZero() {
		t.seconds = at.Sub(t.at).Seconds()
	}
	t.shown, t.at = counting, at
	t.before, t.now, t.next = t.now, t.next, t.before
	t.happened, t.pending = t.pending, t.happened
	t.pending.reset()
	if t.seconds > 0 {
		t.now.settle(t.before, t.happened)
	}
	t.counted = t.counted || t.now.counted || t.happened.counted
	return nil
}

// view takes the n first rows of what was read last.
func (t *top) view(v *topView, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v.kind, v.sort, v.at, v.seconds, v.lost = t.shown, t.sort, t.at, t.seconds, t.lost
	v.keys, v.left, v.counted = len(t.now.keys), t.now.left.flows, t.counted
	v.all = rates(t.now.all, t.before.all, t.happened.all, t.seconds)
	v.best(t.now, t.before, t.happened, n)
}

// stream writes an object for every refresh.
func (t *top) stream(ctx context.Context) error {
	var v topView
	for {
		select {
		case err := <-t.fresh:
			if err != nil {
				return t.ended(err)
			}
		case <-ctx.Done():
			return nil
		case <-t.out.broken:
			return t.out.flush()
		}
		t.view(&v, topJSONRows)
		t.out.buf = append(v.appendJSON(t.out.buf), '\n')
		if err := t.out.sync(); err != nil {
			return err
		}
	}
}

// show paints the screen for every refresh and every letter.
func (t *top) show(ctx context.Context, scr *screen.Screen) error {
	p := topPainter{every: t.every, command: t.argv}
	for ready := false; ; {
		select {
		case err := <-t.fresh:
			if err != nil {
				return t.ended(err)
			}
			ready = true
		case letter := <-scr.Events():
			if letter == 'q' {
				return nil
			}
			t.press(letter)
		case <-ctx.Done():
			return nil
		}
		width, height := scr.Size()
		if ready {
			t.view(&p.view, topRows(height))
		}
		if err := scr.Paint(p.paint(width, height, ready)); err != nil {
			return &writeError{err}
		}
	}
}

// press does what a letter stands for.
func (t *top) press(letter byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range topSorts {
		if topSorts[i].letter == letter {
			t.sort = topColumn(i)
		}
	}
	for i := range topKinds {
		if topKinds[i].letter == letter && t.kind != uint8(i) {
			t.kind = uint8(i)
			select {
			case t.again <- struct{}{}:
			default:
			}
		}
	}
}

// ended is nil where reading ended because the context did.
func (t *top) ended(err error) error {
	if t.ctx.Err() != nil && errors.Is(err, context.Cause(t.ctx)) {
		return nil
	}
	return err
}
