package conntrack

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"ctbox/applets/internal/screen"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// defaultRefresh is the default of --refresh.
const defaultRefresh = 2 * time.Second

// topJSONRows is the number of keys in an object of the stream.
const topJSONRows = 20

// top shows the keys with the most flows until the context ends or the user quits:
// painted on a terminal, else as a stream of JSON objects.
func (s *session) top(c *Command) error {
	t := &top{session: s, command: c, filter: newFilter(c), kind: c.TopKey, sort: c.TopSort,
		every: c.Refresh, readings: make(chan error, 1), wake: make(chan struct{}, 1)}
	if t.every == 0 {
		t.every = defaultRefresh
	}
	t.reset()
	sub, err := ctnetlink.Subscribe(ctnetlink.EventOptions{NetNS: s.netns.FD(),
		Groups: ctnetlink.GroupFlowNew | ctnetlink.GroupFlowDestroy, Filter: eventFilter(c)})
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

	if c.Has(OptOnce) {
		return t.once(ctx, c.Output&OutJSON != 0)
	}
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

// top is the state of a --top. One goroutine reads the table repeatedly, one counts the
// events, and the caller's goroutine shows the results.
type top struct {
	*session
	command  *Command
	filter   *filter // the reader's
	every    time.Duration
	readings chan error    // from the reader: a table was read, or reading has failed
	wake     chan struct{} // to the reader: read at once
	next     *tallies      // the reader's: the table as it is being read
	earlier  *tallies      // the reader's: the events before this reading began

	mu       sync.Mutex
	kind     uint8     // the key that the user has chosen
	drill    []topStep // what the user has entered, the last step last; never changed in place
	choices  uint      // of kind or drill, so far
	shown    topChoice // of now, before and happened
	counting topChoice // of pending
	now      *tallies  // the table as it was read last
	before   *tallies  // the table as it was read the time before
	happened *tallies  // the events between the two
	pending  *tallies  // the events since
	at       time.Time
	seconds  float64 // between before and now; 0 if before has another key
	lost     uint64  // events
	counted  bool    // some flow had counters
	sort     topColumn
}

// topStep is a key that the user has entered: only its flows are counted.
type topStep struct {
	kind uint8
	key  topKey
}

// has reports whether a flow has the key.
func (s *topStep) has(f *ctnetlink.Flow) bool {
	var k topKey
	topKinds[s.kind].key(&k, f)
	return k == s.key
}

// topChoice is what flows are counted by, and which ones.
type topChoice struct {
	kind   uint8
	drill  []topStep
	number uint // differs from choice to choice
}

// key sets k to the key of f and reports whether f is counted.
func (c *topChoice) key(k *topKey, f *ctnetlink.Flow) bool {
	for i := range c.drill {
		if !c.drill[i].has(f) {
			return false
		}
	}
	*k = topKey{}
	topKinds[c.kind].key(k, f)
	return true
}

// reset makes the tallies.
func (t *top) reset() {
	for _, table := range [...]**tallies{&t.next, &t.now, &t.before, &t.pending, &t.earlier, &t.happened} {
		*table = new(tallies)
		(*table).reset()
	}
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
			return // the table alone is counted from here on
		}
		t.mu.Lock()
		_ = run.Each(func(m *nl.Message, _ time.Time) error {
			if flow.Decode(m.Attrs) != nil || !filter.match(&flow) || !(ctnetlink.IsNew(m) || ctnetlink.IsDelete(m)) || !t.counting.key(&k, &flow) {
				return nil
			}
			counted := &k
			if topKinds[t.counting.kind].changes {
				counted = nil
			}
			t.pending.event(counted, &flow, ctnetlink.IsDelete(m))
			return nil
		})
		t.lost = run.Dropped
		t.mu.Unlock()
	}
}

// read reads the table repeatedly until the context ends or reading fails. A large table
// takes at most half of the time.
func (t *top) read(ctx context.Context) {

	for {
		begun := time.Now()
		err := t.refresh()
		select {
		case t.readings <- err:
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
		case <-t.wake:
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
	choice := t.beginReading()
	var k topKey // shared by all flows, since it escapes
	_, err := t.dumpOnce(t.command, func(f *ctnetlink.Flow) error {
		if t.filter.match(f) && choice.key(&k, f) {
			t.next.flow(&k, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.endReading(time.Now())
	return nil
}

// beginReading sets the events so far apart and returns what to count by. A flow whose end arrives while the table is read may be in the table, too: its
// event belongs to the next reading, so that its counters are not added twice.
func (t *top) beginReading() topChoice {
	t.next.reset()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counting.number != t.choices || t.at.IsZero() {
		t.counting = topChoice{t.kind, t.drill, t.choices}
		t.pending.reset()
	}
	t.earlier, t.pending = t.pending, t.earlier
	t.pending.reset()
	return t.counting
}

// endReading makes the table that was read, and the events before, those that are shown.
func (t *top) endReading(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seconds = 0
	if t.shown.number == t.counting.number && !t.at.IsZero() {
		t.seconds = at.Sub(t.at).Seconds()
	}
	t.shown, t.at = t.counting, at
	t.before, t.now, t.next = t.now, t.next, t.before
	t.happened, t.earlier = t.earlier, t.happened
	if t.seconds > 0 {
		t.now.settle(t.before, t.happened)
	}
	t.counted = t.counted || t.now.counted || t.happened.counted
}

// view fills v with the n first rows of the last reading.
func (t *top) view(v *topView, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v.kind, v.drill, v.sort, v.at, v.seconds, v.lost = t.shown.kind, t.shown.drill, t.sort, t.at, t.seconds, t.lost
	v.keys, v.left, v.counted = t.now.size(), t.now.left.flows, t.counted
	v.all = rates(t.now.all, t.before.all, t.happened.all, t.seconds)
	v.best(t.now, t.before, t.happened, n)
}

// stream writes an object for every refresh.
func (t *top) stream(ctx context.Context) error {
	var v topView
	for {
		select {
		case err := <-t.readings:
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

// once prints what the second reading has, which is the first one with rates.
func (t *top) once(ctx context.Context, json bool) error {
	for range 2 {
		select {
		case err := <-t.readings:
			if err != nil {
				return t.ended(err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p := topPainter{}
	t.view(&p.view, topJSONRows)
	if json {
		t.out.buf = append(p.view.appendJSON(t.out.buf), '\n')
	} else {
		t.out.buf = p.appendTable(t.out.buf)
	}
	return t.out.sync()
}

// show paints the screen for every refresh and every key pressed.
func (t *top) show(ctx context.Context, scr *screen.Screen) error {
	p := topPainter{every: t.every, command: t.argv}
	for ready := false; ; {
		select {
		case err := <-t.readings:
			if err != nil {
				return t.ended(err)
			}
			ready = true
		case event := <-scr.Events():
			switch {
			case event == 'q':
				return nil
			case p.help:
				p.help = event == screen.Redraw // any key ends it
			case event == '?':
				p.help = true
			case event == screen.KeyUp:
				p.move(-1)
			case event == screen.KeyDown:
				p.move(1)
			case event == screen.KeyEnter && len(p.view.rows) > 0:
				t.enter(topStep{p.view.kind, p.view.rows[p.selected].key})
				p.selected = 0
			case event == screen.KeyBack:
				t.back()
			default:
				t.press(event)
			}
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

// press carries out the command of a letter.
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
			t.choose(uint8(i), t.drill)
		}
	}
}

// enter counts only the flows with a key, by the next kind of key.
func (t *top) enter(step topStep) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counting.number != t.choices || t.shown.number != t.choices {
		return // what is shown is no longer what was chosen
	}
	drill := append(slices.Clone(t.drill), step)
	entered := func(kind uint8) bool {
		return slices.ContainsFunc(drill, func(s topStep) bool { return s.kind == kind })
	}
	kind := topKinds[step.kind].next
	for range topKinds {
		if !entered(kind) {
			break
		}
		kind = (kind + 1) % uint8(len(topKinds))
	}
	t.choose(kind, drill)
}

// back leaves the key that was entered last.
func (t *top) back() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.drill); n > 0 {
		t.choose(t.drill[n-1].kind, t.drill[:n-1:n-1])
	}
}

// choose has the table read at once, by another choice. t.mu must be held.
func (t *top) choose(kind uint8, drill []topStep) {
	t.kind, t.drill = kind, drill
	t.choices++
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// ended returns nil if reading ended because the context did, else err.
func (t *top) ended(err error) error {
	if t.ctx.Err() != nil && errors.Is(err, context.Cause(t.ctx)) {
		return nil
	}
	return err
}
