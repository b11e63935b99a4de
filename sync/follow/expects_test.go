package follow

import (
	"context"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"

	"golang.org/x/sys/unix"
)

// master returns a connection with a helper in a zone, which is of the original direction only or
// of both.
func master(zone uint16, oneWay bool) ctnetlink.Flow {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Has |= ctnetlink.HasHelper | ctnetlink.HasTimeout | ctnetlink.HasStatus
	f.Timeout, f.Status = 300, ctnetlink.StatusConfirmed
	copy(f.Helper[:], "ftp")
	if oneWay {
		f.Orig.Zone, f.Orig.Has = zone, f.Orig.Has|ctnetlink.TupleZone
	} else {
		f.Zone, f.Has = zone, f.Has|ctnetlink.HasZone
	}
	return f
}

// expectOf returns an expectation of a flow, as the kernel's events and dumps show it: without a
// zone.
func expectOf(f *ctnetlink.Flow) (e ctnetlink.Expect) {
	e.Master = f.Orig
	e.Master.Zone, e.Master.Has = 0, e.Master.Has&^ctnetlink.TupleZone
	e.Tuple, e.Mask = e.Master, e.Master
	e.Tuple.DstPort++
	e.Has, e.Timeout = ctnetlink.ExpectHasTimeout, 300
	return e
}

// The events of the kernel do not say in which zone an expectation is. It gets that of its master,
// and its end finds it, for zones of the original direction, too, and in a reading.
func TestExpectationIsInTheZoneOfItsMaster(t *testing.T) {
	for name, m := range map[string]ctnetlink.Flow{"no zone": master(0, false), "both directions": master(5, false), "original direction": master(3, true)} {
		t.Run(name, func(t *testing.T) {
			zone := m.Zone + m.Orig.Zone
			ns := netnstest.New(t, "zone")
			fo := unwiredWith(Config{Expects: true})
			var conn *nl.Conn
			var err error
			ns.Do(func() {
				if err = fo.Open(); err == nil {
					conn, err = nl.Dial(nl.Config{})
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			defer fo.Close()
			ctx, cancel := context.WithCancel(context.Background())
			var loop sync.WaitGroup
			loop.Go(func() { fo.sched.Run(ctx, func() {}, func() {}) })
			defer loop.Wait()
			defer cancel()

			expect := expectOf(&m)
			setZone(&expect, zone)
			request := func(typ nl.Type, flags uint16, attrs func([]byte) []byte) {
				t.Helper()
				err := conn.Do(ctx, nl.Request{Type: typ, Flags: flags, Family: m.Orig.Family, Attrs: attrs}, nil)
				if err != nil {
					t.Fatal(err)
				}
			}
			cached := func(want int) {
				t.Helper()
				netnstest.Eventually(t, 10*time.Second, "the cache has what the kernel has", func() (there bool) {
					fo.sched.Do(ctx, func() {
						// The kernel adds to the mask.
						zones := zonesOfExpects(fo.cache.Expects)
						there = len(zones) == want && (want == 0 || zones[0] == zone)
					})
					return there
				})
			}
			request(ctnetlink.TypeFlowNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m.Append)
			for range 2 {
				request(ctnetlink.TypeExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, expect.Append)
				cached(1)
				request(ctnetlink.TypeExpectDelete, 0, expect.Append)
				cached(0)
			}
		})
	}
}

// zonesOfExpects returns the zones of the living expectations in a table.
func zonesOfExpects(table *cache.Expects) (zones []uint16) {
	handles := make([]cache.Handle, 16)
	var cur cache.Cursor
	var e ctnetlink.Expect
	got, _ := table.Next(&cur, handles)
	for _, h := range handles[:got] {
		if table.Load(h, &e) {
			zones = append(zones, e.Zone)
		}
	}
	return zones
}

// A master in zone 0 is preferred. Of others with equal tuples nobody knows which one expects, and
// a flow without a helper expects nothing.
func TestMastersWithEqualTuples(t *testing.T) {
	plain := master(9, false)
	plain.Has &^= ctnetlink.HasHelper
	for _, c := range []struct {
		name  string
		flows []ctnetlink.Flow
		wants bool
		zone  uint16
	}{
		{"none", nil, false, 0},
		{"one", []ctnetlink.Flow{master(5, false)}, true, 5},
		{"zone 0", []ctnetlink.Flow{master(5, false), master(0, false)}, true, 0},
		{"two zones", []ctnetlink.Flow{master(5, false), master(3, true)}, false, 0},
		{"one with a helper", []ctnetlink.Flow{master(5, false), plain}, true, 5},
		{"another tuple in that zone", append(flowtest.Flows(1), master(5, false)), true, 5},
	} {
		fo := unwired()
		fo.expectSync = true
		for i := range c.flows {
			fo.mergeFlow(&c.flows[i], refill{})
		}
		e := expectOf(&plain)
		fo.mergeExpect(&e, refill{})
		want := expectOf(&plain)
		setZone(&want, c.zone)
		if got := fo.cache.Expects.Find(&want) != 0; got != c.wants || fo.cache.Expects.Len() > 1 {
			t.Errorf("%s: cached %v in zone %d, %d in all", c.name, got, c.zone, fo.cache.Expects.Len())
		}
		if e = expectOf(&plain); c.wants && fo.findExpect(&e) == 0 {
			t.Errorf("%s: its end does not find the expectation", c.name)
		}
	}
}

// The zones in which masters are looked for are bounded.
func TestZonesAreBounded(t *testing.T) {
	fo := unwired()
	fo.expectSync = true
	for zone := range uint16(2 * maxZones) {
		f := master(zone, zone%2 == 0)
		fo.noteZone(&f)
	}
	if len(fo.zones) != maxZones {
		t.Errorf("%d zones", len(fo.zones))
	}
}

// BenchmarkEndOfUnknownExpect is the most that an event of an expectation costs.
func BenchmarkEndOfUnknownExpect(b *testing.B) {
	fo := unwired()
	fo.expectSync = true
	for zone := range uint16(maxZones + 1) {
		f := master(zone, false)
		fo.noteZone(&f)
	}
	known := expectOf(&[]ctnetlink.Flow{master(0, false)}[0])
	known.Tuple.DstPort++
	fo.cache.Expects.Put(&known, 0)
	for b.Loop() {
		f := master(0, false)
		e := expectOf(&f)
		if fo.findExpect(&e) != 0 {
			b.Fatal("it was found")
		}
	}
}
