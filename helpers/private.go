package helpers

import "ctbox/nl/ctnetlink"

// private remembers what was written into flows' private data until the packets
// that were queued before that are read. The kernel puts a flow's data beside a
// packet when it queues it: of two packets in a burst the second has what was
// true before the first was answered.
type private struct {
	batch uint32
	flows map[flowKey]written
}

// flowKey tells flows apart: of the original tuple what every flow has, the zone,
// and the kernel's id, since a new flow may have an ended one's tuple.
type flowKey struct {
	src, dst         ctnetlink.Addr
	srcPort, dstPort uint16
	zone             uint16
	family, proto    uint8
	id               uint32
}

type written struct {
	batch uint32 // when
	data  [maxPrivate]byte
}

// maxPrivate is the kernel's room for a helper's private data (struct
// nf_conn_help).
const maxPrivate = 32

// maxRemembered bounds the memory for it; the queue's length does so already,
// unless it is never found empty.
const maxRemembered = 4096

func keyOf(f *ctnetlink.Flow) flowKey {
	k := flowKey{src: f.Orig.Src, dst: f.Orig.Dst, srcPort: f.Orig.SrcPort, dstPort: f.Orig.DstPort,
		family: f.Orig.Family, proto: f.Orig.Proto}
	if f.Has&ctnetlink.HasID != 0 {
		k.id = f.ID
	}
	if f.Has&ctnetlink.HasZone != 0 {
		k.zone = f.Zone
	}
	return k
}

// load returns the private data of f's flow, of that size, in dst: what was
// written last, or what came with the packet, or zeros.
func (r *private) load(dst *[maxPrivate]byte, f *ctnetlink.Flow, size int) []byte {
	*dst = [maxPrivate]byte{}
	data := dst[:size]
	if len(r.flows) > 0 {
		if w, ok := r.flows[keyOf(f)]; ok {
			copy(data, w.data[:])
			return data
		}
	}
	if f.Has&ctnetlink.HasHelperInfo != 0 {
		copy(data, f.HelperInfo)
	}
	return data
}

// store remembers what is written with the verdict of this packet.
func (r *private) store(f *ctnetlink.Flow, data []byte) {
	if r.flows == nil || len(r.flows) >= maxRemembered {
		r.flows = make(map[flowKey]written)
	}
	w := written{batch: r.batch}
	copy(w.data[:], data)
	r.flows[keyOf(f)] = w
}

// next ends a batch of packets. If it was a short one, that left none waiting,
// then what comes now was queued after the verdicts of the batch before it.
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
