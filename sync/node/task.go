package node

import (
	"context"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/sched"
)

// run starts work beside the loop. Its error is logged with what was attempted, and
// counted; then ended, if not nil, is called with the lock held.
func (n *Node) run(kind sched.Kind, what string, work func(ctx context.Context, t *sched.Task) error, ended func(error)) {
	n.sched.Go(kind, work, func(err error) {
		if err != nil && !n.sched.Stopping() {
			n.taskFailed++
			n.log.Error(what + ": " + err.Error())
		}
		if ended != nil {
			ended(err)
		}
	})
}

// sliceLen is how many flows or expectations the loop handles at once for a task:
// a fraction of a millisecond's work.
const sliceLen = 256

// decoded is what a dump's messages are decoded into.
type decoded[T any] interface {
	*T
	Decode(attrs []byte) error
}

// dump reads one of the kernel's tables and calls each for all entries with the
// lock held, slice by slice. Decoding and the kernel's part run beside the loop.
func dump[T any, P decoded[T]](ctx context.Context, n *Node, t *sched.Task, d ctnetlink.Dump, each func(P)) (nl.DumpInfo, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nl.DumpInfo{}, err
	}
	defer c.Close()
	slice := make([]T, 0, sliceLen)
	hand := func() error {
		err := n.sched.Do(ctx, func() {
			for i := range slice {
				each(&slice[i])
			}
			t.Done += uint64(len(slice))
		})
		slice = slice[:0]
		if err != nil || !n.bypass {
			return err
		}
		return n.waitForLink(ctx)
	}
	unread := uint64(0)
	defer func() {
		if unread > 0 {
			_ = n.sched.Do(ctx, func() { n.kernel.UnknownDumps += unread })
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
