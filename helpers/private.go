package helpers

import "ctbox/nl/ctnetlink"

// private keeps changed private data until all packets that were queued before the change
// have been read. The kernel attaches a flow's data to a packet when it queues it, so the
// second packet of a burst carries the data from before the first one's verdict.
type private struct {
	batch uint32
	flows map[ctnetlink.FlowKey]written
}

type written struct {
	batch uint32 // in which it was written
	data  [maxPrivate]byte
}

// maxPrivate is the kernel's room for a helper's private data (struct
// nf_conn_help).
const maxPrivate = 32

// maxRemembered limits the memory under a load that never leaves the queue empty.
const maxRemembered = 4096

// load returns size bytes of the flow's private data, stored in dst: the latest written,
// else those that came with the packet, else zeros.
func (r *private) load(dst *[maxPrivate]byte, f *ctnetlink.Flow, size int) []byte {
	*dst = [maxPrivate]byte{}
	data := dst[:size]
	if len(r.flows) > 0 {
		if w, ok := r.flows[f.Key()]; ok {
			copy(data, w.data[:])
			return data
		}
	}
	if f.Has&ctnetlink.HasHelperInfo != 0 {
		copy(data, f.HelperInfo)
	}
	return data
}

// store keeps the private data that the verdict of this packet carries.
func (r *private) store(f *ctnetlink.Flow, data []byte) {
	if r.flows == nil || len(r.flows) >= maxRemembered {
		r.flows = make(map[ctnetlink.FlowKey]written)
	}
	w := written{batch: r.batch}
	copy(w.data[:], data)
	r.flows[f.Key()] = w
}

// next ends a batch of packets. After a short batch, which left the queue empty, later
// packets were queued after the verdicts of the previous batch, so its data is dropped.
func (r *private) next(short bool) {
	if short && len(r.flows) > 0 {
		for k, w := range r.flows {
			if w.batch != r.batch {
				delete(r.flows, k)
			}
		}
	}
	r.batch++
}
