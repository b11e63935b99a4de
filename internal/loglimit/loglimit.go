// Package loglimit limits repeated log lines.
package loglimit

import (
	"sort"
	"sync"
	"time"
)

// Limit admits the first lines of a kind in a period, counts the others, and reports
// their number at the end of the period, whether or not the line comes again. Lines with
// the same key K are of one kind; the report gets the value V of the first line. A Limit is
// safe for use by several goroutines. A nil Limit admits everything.
type Limit[K comparable, V any] struct {
	most   int
	period time.Duration
	held   func(first V, n uint64)

	mu     sync.Mutex
	kinds  map[K]*kind[V]
	begun  uint64 // kinds, in all periods
	closed bool
}

// kind is a kind of line in the current period.
type kind[V any] struct {
	first    V
	number   uint64 // in the order of the first lines
	until    time.Time
	admitted int
	held     uint64
	timer    *time.Timer // nil until a line is held back
}

// maxKinds is how many kinds are counted at the same time. It bounds the memory for texts with
// words from the network. Lines of further kinds are admitted.
const maxKinds = 64

// New returns a Limit that admits most lines of a kind within period. held is called with the
// number of lines that were held back, by a timer's goroutine or the caller of Admit or Close.
func New[K comparable, V any](most int, period time.Duration, held func(first V, n uint64)) *Limit[K, V] {
	return &Limit[K, V]{most: most, period: period, held: held, kinds: make(map[K]*kind[V])}
}

// Admit reports whether the line is to be logged now.
func (l *Limit[K, V]) Admit(key K, v V) bool { return l.AdmitN(key, v, 1) }

// AdmitN is Admit for a line that adds n to the report if it is held back.
func (l *Limit[K, V]) AdmitN(key K, v V, n uint64) bool {
	if l == nil {
		return true
	}
	now := time.Now()
	l.mu.Lock()
	k := l.kinds[key]
	if k != nil && now.Before(k.until) {
		defer l.mu.Unlock()
		if k.admitted < l.most {
			k.admitted++
			return true
		}
		k.held += n
		if k.timer == nil {
			k.timer = time.AfterFunc(k.until.Sub(now), func() { l.end(key, k) })
		}
		return false
	}
	if k == nil && len(l.kinds) >= maxKinds {
		l.forget(now)
	}
	if !l.closed && (k != nil || len(l.kinds) < maxKinds) {
		l.begun++
		l.kinds[key] = &kind[V]{first: v, number: l.begun, until: now.Add(l.period), admitted: 1}
	}
	l.mu.Unlock()
	if k != nil && k.timer != nil && k.timer.Stop() {
		l.held(k.first, k.held) // its timer is late
	}
	return true
}

// forget drops the kinds whose period has ended with nothing held back.
func (l *Limit[K, V]) forget(now time.Time) {
	for key, k := range l.kinds {
		if k.timer == nil && !now.Before(k.until) {
			delete(l.kinds, key)
		}
	}
}

// end reports the lines of a kind that were held back, at the end of its period.
func (l *Limit[K, V]) end(key K, k *kind[V]) {
	l.mu.Lock()
	if l.kinds[key] == k {
		delete(l.kinds, key)
	}
	n := k.held
	l.mu.Unlock()
	l.held(k.first, n)
}

// Close reports all lines that were held back, in the order of the first line of each kind.
// Later lines are admitted.
func (l *Limit[K, V]) Close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	kinds := l.kinds
	l.kinds = nil
	l.mu.Unlock()
	var all []*kind[V]
	for _, k := range kinds {
		all = append(all, k)
	}
	// Not slices.SortFunc: each type would have its own 10 kB of it.
	sort.Slice(all, func(i, j int) bool { return all[i].number < all[j].number })
	for _, k := range all {
		if k.timer != nil && k.timer.Stop() {
			l.held(k.first, k.held)
		}
	}
}
