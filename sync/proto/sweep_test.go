package proto

import (
	"testing"
	"time"
)

func TestSweep(t *testing.T) {
	const many = Handful + 1
	type step struct {
		left, announced int // announced < 0: call Judge; otherwise the peer's number, compared with 100 here
		unasked         bool
		want            SweepVerdict
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing is left out", []step{{0, -1, true, Keep}, {0, -1, false, Keep}}},
		{"a handful", []step{{Handful, -1, false, Remove}}},
		{"a handful, unasked", []step{{1, -1, true, Ask}, {1, -1, true, Ask}, {1, -1, false, Remove}}},
		{"many, twice", []step{{many, -1, false, Ask}, {many, -1, false, Remove}, {many, -1, false, Ask}}},
		{"many, and then nothing", []step{{many, -1, false, Ask}, {0, -1, false, Keep}, {many, -1, false, Ask}}},
		{"many, never asked for", []step{{many, -1, true, Ask}, {many, -1, true, Ask}}},
		{"many, and the number agrees", []step{{0, 100, false, Keep}, {50, -1, false, Ask}, {50, -1, false, Keep}, {0, 51, false, Remove}, {0, 50, false, Keep}}},
		{"many, and the number does not", []step{{0, 100, false, Keep}, {50, -1, false, Ask}, {50, -1, false, Keep}, {0, 99, false, Keep}, {0, 50, false, Keep}}},
		{"a handful, from a peer with a number", []step{{0, 100, false, Keep}, {2, -1, false, Remove}}},
	} {
		var s Sweep
		for i, step := range c.steps {
			var got SweepVerdict
			if step.announced >= 0 {
				got = s.Announced(step.announced, 100)
			} else {
				s.Begin()
				got = s.Judge(step.left, step.unasked)
			}
			if got != step.want {
				t.Errorf("%s, step %d: %d, want %d", c.name, i, got, step.want)
			}
		}
	}
}

func TestAgreement(t *testing.T) {
	var a Agreement
	now := time.Duration(0)
	// run compares once a second until a resync is due, and returns the seconds until then.
	run := func(announced, here, most int) int {
		for i := range most {
			now += time.Second
			if a.Compare(now, announced, here) {
				return i
			}
		}
		return -1
	}
	if got := run(100, 100, 1000); got >= 0 {
		t.Errorf("equal numbers were lost after %d s", got)
	}
	if got := run(100, 90, 1000); got != 15 {
		t.Errorf("fewer: %d s", got)
	}
	if got := run(100, 90, 1000); got != 90 {
		t.Errorf("still fewer: %d s", got)
	}
	a.Pause()
	if got := run(100, 90, 1000); got != 540 {
		t.Errorf("still fewer, after a bulk: %d s", got)
	}
	run(100, 90, 10000)
	if got := run(100, 90, 10000); got != 3600 {
		t.Errorf("at last: %d s", got)
	}
	run(100, 100, 1)
	if got := run(100, 110, 1000); got != 15 {
		t.Errorf("more, after they were equal: %d s", got)
	}
	a = Agreement{}
	for i := range 1000 {
		now += time.Second
		if a.Compare(now, 100, 99+i%3) {
			t.Fatal("numbers that are equal now and then are lost")
		}
		if now += time.Second; i%5 == 0 && a.Compare(now, 100, 100+1-i%2*2) {
			t.Fatal("numbers that differ in both directions are lost")
		}
	}
}
