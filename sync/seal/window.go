package seal

// WindowLen is how far behind the newest datagram of a life another may arrive (RFC 6479).
const WindowLen = 8192

// window remembers which counters of a life have been seen. The bits are a ring of words:
// moving ahead clears whole words, so one word more than WindowLen needs is kept.
type window struct {
	top   uint64 // the highest counter seen
	words [WindowLen/64 + 1]uint64
}

const windowWords = WindowLen/64 + 1

// begin makes counter the first one that was seen; all below it count as seen.
func (w *window) begin(counter uint64) {
	w.top = counter
	for i := range w.words {
		w.words[i] = ^uint64(0)
	}
	// The bits above counter in its word are those of counters to come.
	w.words[counter/64%windowWords] = 1<<(counter%64)<<1 - 1
}

// fresh reports whether counter has not been seen, and is not too old to know.
func (w *window) fresh(counter uint64) bool {
	switch {
	case counter > w.top:
		return true
	case w.top-counter >= WindowLen:
		return false
	}
	return w.words[counter/64%windowWords]&(1<<(counter%64)) == 0
}

// see notes a counter that is fresh, once its datagram is authenticated.
func (w *window) see(counter uint64) {
	if counter > w.top {
		from, to := w.top/64, counter/64
		for i := from + 1; i <= to && i <= from+windowWords; i++ {
			w.words[i%windowWords] = 0
		}
		w.top = counter
	}
	w.words[counter/64%windowWords] |= 1 << (counter % 64)
}
