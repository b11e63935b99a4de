package loglimit

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// heard collects what a Limit reports.
type heard struct {
	mu   sync.Mutex
	said []string
}

func (h *heard) held(first string, n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, fmt.Sprint(first, " ", n))
}

func (h *heard) want(t *testing.T, said ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if fmt.Sprint(h.said) != fmt.Sprint(said) {
		t.Errorf("reported %q, want %q", h.said, said)
	}
	h.said = nil
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		l := New[int](2, time.Second, h.held)
		admitted := func(key int, text string) (n int) {
			for range 5 {
				if l.Admit(key, text) {
					n++
				}
			}
			return n
		}
		if a, b := admitted(1, "one"), admitted(2, "two"); a != 2 || b != 2 {
			t.Errorf("%d and %d lines of 5 were admitted", a, b)
		}
		h.want(t)
		// What was held back is reported though nothing comes any more.
		time.Sleep(time.Second + 1)
		synctest.Wait()
		if len(h.said) != 2 {
			t.Errorf("reported %q", h.said)
		}
		h.said = nil

		// The next period begins with the line itself; a quiet one reports nothing.
		if n := admitted(1, "one again"); n != 2 {
			t.Errorf("%d lines of 5 were admitted in the second period", n)
		}
		time.Sleep(time.Second + 1)
		synctest.Wait()
		h.want(t, "one again 3")
		l.Admit(1, "slow")
		time.Sleep(2 * time.Second)
		l.Admit(1, "slow")
		time.Sleep(time.Hour)
		synctest.Wait()
		h.want(t)

		// The end reports what is held back, once.
		l.AdmitN(3, "lost", 10)
		l.AdmitN(3, "lost", 10)
		l.AdmitN(3, "lost", 10)
		l.AdmitN(3, "lost", 7)
		l.Close()
		h.want(t, "lost 17")
		time.Sleep(time.Hour)
		synctest.Wait()
		h.want(t)
		for range 3 {
			if !l.Admit(3, "after the end") {
				t.Error("a line after the end was not admitted")
			}
		}
		l.Close()
		h.want(t)
	})
}

// The reports at the end come in the order of the first lines.
func TestCloseReportsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		l := New[string](1, time.Hour, h.held)
		var want []string
		for i := range maxKinds {
			key := fmt.Sprint("line ", i*37%maxKinds)
			want = append(want, key+" 1")
			l.Admit(key, key)
		}
		for i := range maxKinds {
			l.Admit(fmt.Sprint("line ", i), "")
		}
		l.Close()
		h.want(t, want...)
	})
}

// However many kinds there are, their memory is bounded and every line counts.
func TestManyKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		l := New[int](1, time.Second, h.held)
		l.Admit(0, "kept")
		l.Admit(0, "kept")
		for i := range 10 * maxKinds {
			if !l.Admit(i+1, "x") {
				t.Fatalf("line %d was held back", i)
			}
		}
		if n := len(l.kinds); n != maxKinds {
			t.Errorf("%d kinds are remembered", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		h.want(t, "kept 1")
		// Those that are over make room for others.
		for range 2 {
			for i := range maxKinds {
				l.Admit(1000+i, "y")
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(h.said); n != maxKinds {
			t.Errorf("%d kinds were reported", n)
		}
	})
}

func TestAllAtOnce(t *testing.T) {
	var h heard
	l := New[int](1, time.Nanosecond, h.held)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 1000 {
				l.Admit(i%100, "x")
			}
		})
	}
	all.Wait()
	l.Close()
}
