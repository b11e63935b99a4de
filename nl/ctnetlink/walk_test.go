package ctnetlink

import (
	"ctbox/nl"
	"slices"
	"testing"
	"time"
)

func TestEventsHaveTheTimeOfTheirDatagram(t *testing.T) {
	event := nl.EndMessage(nl.BeginMessage(nil, TypeFlowNew, 0, 0, nl.FamilyIPv4, 0, 0), 0)
	begin := time.Unix(1800000000, 0)
	var e Events
	var want []time.Duration
	for i, n := range []int{1, 3, 2} {
		for range n {
			e.buf = append(e.buf, event...)
			want = append(want, time.Duration(i)*time.Second)
		}
		e.marks = append(e.marks, mark{end: len(e.buf), at: begin.Add(time.Duration(i) * time.Second)})
	}
	var got []time.Duration
	if err := e.Each(func(_ *nl.Message, at time.Time) error {
		got = append(got, at.Sub(begin))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
