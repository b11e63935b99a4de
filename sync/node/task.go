package node

import (
	"context"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// do has the loop call f and waits for it. It is how everything outside the loop
// touches the node's state: one call for a slice of work, never one for a flow.
func (n *Node) do(ctx context.Context, f func()) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // of several ways the select takes any
	}
	done := make(chan struct{})
	select {
	case n.calls <- func() { f(); close(done) }:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.stopped:
		return ErrStopped
	}
	// The loop has taken it and will not leave it undone.
	<-done
	return nil
}

// task is a long piece of work beside the loop. The loop owns its fields.
type task struct {
	typ   TaskType
	began time.Time
	done  uint64
}

// run starts work in a goroutine of its own, with ctx ending when the node does.
// The loop must call it. work's error is logged with what was attempted, and
// counted; then ended, if not nil, is called in the loop.
func (n *Node) run(typ TaskType, what string, work func(ctx context.Context, t *task) error, ended func(error)) {
	t := &task{typ: typ, began: n.now}
	n.tasks[t] = struct{}{}
	n.working.Add(1)
	go func() {
		defer n.working.Done()
		err := work(n.ctx, t)
		_ = n.do(context.WithoutCancel(n.ctx), func() {
			delete(n.tasks, t)
			if err != nil && n.ctx.Err() == nil {
				n.taskFailed++
				n.log.Error(what + ": " + err.Error())
			}
			if ended != nil {
				ended(err)
			}
		})
	}()
}

// sliceLen is how many flows or expectations the loop handles at once for a task:
// a fraction of a millisecond's work.
const sliceLen = 256

// decoded is what a dump's messages are decoded into.
type decoded[T any] interface {
	*T
	Decode(attrs []byte) error
}

// dump reads one of the kernel's tables and has the loop call each for all
// entries, slice by slice. Decoding and the kernel's part run beside the loop.
func dump[T any, P decoded[T]](ctx context.Context, n *Node, t *task, d ctnetlink.Dump, each func(P)) (nl.DumpInfo, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nl.DumpInfo{}, err
	}
	defer c.Close()
	slice := make([]T, 0, sliceLen)
	hand := func() error {
		err := n.do(ctx, func() {
			for i := range slice {
				each(&slice[i])
			}
			t.done += uint64(len(slice))
		})
		slice = slice[:0]
		if err != nil || !n.bypass {
			return err
		}
		return n.unjam(ctx)
	}
	unread := uint64(0)
	defer func() {
		if unread > 0 {
			_ = n.do(ctx, func() { n.kernel.UnknownDumps += unread })
		}
	}()
	info, err := c.Dump(ctx, d.Request(), func(m *nl.Message) error {
		slice = slice[:len(slice)+1]
		if P(&slice[len(slice)-1]).Decode(m.Attrs) != nil {
			// One entry that can't be read must not hide all others.
			unread++
			slice = slice[:len(slice)-1]
			return nil
		}
		if len(slice) < sliceLen {
			return nil
		}
		return hand()
	})
	if err == nil {
		err = hand()
	}
	return info, err
}
