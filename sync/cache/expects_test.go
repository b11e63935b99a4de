package cache

import (
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
)

func expectation(i uint32) *ctnetlink.Expect {
	e := &ctnetlink.Expect{Has: ctnetlink.ExpectHasTimeout | ctnetlink.ExpectHasFlags | ctnetlink.ExpectHasHelper, Timeout: 300}
	tuple(&e.Master, i, false)
	tuple(&e.Tuple, i, false)
	e.Tuple.SrcPort, e.Tuple.DstPort = 0, 25601
	e.Mask = e.Tuple
	e.Mask.DstPort = 0xffff
	e.Helper.Set("ftp")
	return e
}

func TestExpects(t *testing.T) {
	c := NewExpects(Config{Limit: 2, Timers: true})
	h, outcome := c.Replace(expectation(1), t0)
	if outcome != Created {
		t.Fatalf("outcome %d", outcome)
	}
	e := expectation(1)
	e.Timeout = 100
	if same, outcome := c.Put(e, t0+time.Second); same != h || outcome != Unchanged {
		t.Errorf("a new timeout: handle %x, outcome %d", same, outcome)
	}
	e.Class, e.Has = 1, e.Has|ctnetlink.ExpectHasClass
	if same, outcome := c.Put(e, t0+time.Second); same != h || outcome != Updated {
		t.Errorf("a class: handle %x, outcome %d", same, outcome)
	}
	var got ctnetlink.Expect
	if !c.Load(h, &got) || got != *e {
		t.Errorf("Load = %+v, want %+v", got, *e)
	}
	if s, _ := c.State(h); s != Alive {
		t.Errorf("state %d", s)
	}
	if same, outcome := c.Replace(e, t0); same != h || outcome != Replaced {
		t.Errorf("Replace: handle %x, outcome %d", same, outcome)
	}
	zoned := expectation(1)
	zoned.Zone, zoned.Has = 7, zoned.Has|ctnetlink.ExpectHasZone
	if z, outcome := c.Put(zoned, t0); outcome != Created || c.Find(zoned) != z || c.Find(e) != h {
		t.Errorf("a zone: outcome %d", outcome)
	}
	if _, outcome := c.Put(expectation(2), t0); outcome != Full {
		t.Errorf("over the limit: outcome %d", outcome)
	}
	if _, outcome := c.Put(&ctnetlink.Expect{}, t0); outcome != Malformed {
		t.Errorf("empty: outcome %d", outcome)
	}
	c.Arm(h, t0, time.Second)
	batch := make([]Handle, 4)
	if n, _ := c.Expired(t0+2*time.Second, batch); n != 1 || batch[0] != h {
		t.Errorf("%d expired", n)
	}
	if !c.Kill(h) || c.Find(e) != 0 || !c.Load(h, &got) || !c.Release(h) || c.Load(h, &got) {
		t.Error("the dead expectation is found, or has lost its contents")
	}
	want := Stats{Active: 1, Objects: 1, Created: 3, Updated: 2, Destroyed: 2, CreateFailed: 2, NoSpace: 1}
	if got := c.Stats(); got != want {
		t.Errorf("Stats = %+v, want %+v", got, want)
	}
	c.Flush()
	if c.Find(zoned) != 0 || c.Len() != 0 || c.Bytes() > NewExpects(Config{}).Bytes() {
		t.Error("Flush left something")
	}
}

// The table grows and shrinks with many expectations.
func TestExpectsChurn(t *testing.T) {
	c := NewExpects(Config{})
	var handles []Handle
	for i := range uint32(2000) {
		h, _ := c.Put(expectation(i), t0)
		handles = append(handles, h)
	}
	for i, h := range handles {
		if c.Find(expectation(uint32(i))) != h || !c.Delete(h) || c.Delete(h) {
			t.Fatalf("expectation %d", i)
		}
	}
	e := expectation(1)
	if n := testing.AllocsPerRun(100, func() {
		h, _ := c.Replace(e, t0)
		c.Put(e, t0)
		c.Delete(h)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
