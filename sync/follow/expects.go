package follow

import (
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// The kernel does not say in which zone an expectation is: in that of its master, which is looked
// for in all zones in which flows with a helper were seen.

// maxZones bounds these zones, and so what an expectation costs: less than a tenth of a millisecond.
const maxZones = 1024

// noteZone notes the zone of a flow that may be the master of expectations.
func (fo *Follower) noteZone(f *ctnetlink.Flow) {
	if f.Has&ctnetlink.HasHelper == 0 || !fo.expectSync {
		return
	}
	zone := uint16(0)
	switch {
	case f.Has&ctnetlink.HasZone != 0:
		zone = f.Zone
	case f.Orig.Has&ctnetlink.TupleZone != 0:
		zone = f.Orig.Zone
	}
	if zone == 0 || len(fo.zones) >= maxZones {
		return
	}
	if fo.zones == nil {
		fo.zones = map[uint16]struct{}{}
	}
	fo.zones[zone] = struct{}{}
}

// locate sets the zone of an expectation to that of its master, and reports whether the cache has
// the master. Of masters with equal tuples in several zones, none of them zone 0, nobody knows which
// one expects: such an expectation has none.
func (fo *Follower) locate(e *ctnetlink.Expect) bool {
	if fo.cache.Flows.FindMaster(e) != 0 {
		return true
	}
	found := uint16(0)
	for zone := range fo.zones {
		setZone(e, zone)
		h := fo.cache.Flows.FindMaster(e)
		if h == 0 || !fo.cache.Flows.Load(h, &fo.known) || fo.known.Has&ctnetlink.HasHelper == 0 {
			continue
		}
		if found != 0 {
			setZone(e, 0)
			return false
		}
		found = zone
	}
	setZone(e, found)
	return found != 0
}

// findExpect returns the handle of an expectation that has ended, or 0. Its master may have ended
// before.
func (fo *Follower) findExpect(e *ctnetlink.Expect) cache.Handle {
	table := fo.cache.Expects
	h := table.Find(e)
	if h != 0 || table.Len() == 0 {
		return h
	}
	for zone := range fo.zones {
		setZone(e, zone)
		if h = table.Find(e); h != 0 {
			return h
		}
	}
	return 0
}

// setZone sets the zone of an expectation. Zone 0 is that of an expectation without one.
func setZone(e *ctnetlink.Expect, zone uint16) {
	e.Zone, e.Has = zone, e.Has|ctnetlink.ExpectHasZone
	if zone == 0 {
		e.Has &^= ctnetlink.ExpectHasZone
	}
}

// expectEvent handles one event of an expectation.
func (fo *Follower) expectEvent(m *nl.Message) {
	e := &fo.expect
	from := foreign
	if m.PortID != 0 {
		from = fo.own[m.PortID]
	}
	if from == ownInjector {
		return
	}
	if err := e.Decode(m.Attrs); err != nil {
		fo.status.FailedEvents++
		return
	}
	if fo.forwards {
		fo.forwardExpect(m, from)
		return
	}
	table := fo.cache.Expects
	if ctnetlink.IsDelete(m) {
		fo.recordExpectEnd(e)
		if h := fo.findExpect(e); h != 0 {
			fo.goneExpect(h, from == foreign)
		}
		return
	}
	if !fo.wantsExpect(e) {
		return
	}
	put := table.Put
	if ctnetlink.IsNew(m) {
		fo.recordExpectBegin(e)
		put = table.Replace
	}
	fo.expectSeen(e, from, put)
	if from == foreign {
		fo.noteAdjusted(fo.cache.Flows.FindMaster(e))
	}
}

func (fo *Follower) expectSeen(e *ctnetlink.Expect, from origin, put func(*ctnetlink.Expect, time.Duration) (cache.Handle, cache.Outcome)) {
	fo.announcer.MakeRoom(cache.ExpectTable)
	if h, outcome := put(e, fo.sched.Now()); outcome.Stored() {
		fo.announcer.ExpectStored(h, from == foreign)
	}
}

// wantsExpect reports whether an expectation is replicated: its helper must be among the
// configured ones (refusals are counted), and its master's flow must be cached. It sets the
// zone of the expectation.
func (fo *Follower) wantsExpect(e *ctnetlink.Expect) bool {
	if !fo.filter.PassesExpect(e) {
		fo.status.Filtered++
		return false
	}
	if fo.forwards {
		return true
	}
	return fo.locate(e)
}
