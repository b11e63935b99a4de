package logging

import "time"

// Somebody who makes the daemon say the same thing again and again, a peer that sends
// nonsense or a kernel that refuses, does not fill the disk: of what is said more
// than repeatMost times within repeatPeriod, one line at the end of that tells how
// often. Lines about different entries are different.
const (
	repeatPeriod = 5 * time.Second
	repeatMost   = 10

	// repeatKinds is how many different lines are counted at one time. One beyond
	// that is written as it comes.
	repeatKinds = 64
)

// repeats counts what was said of late. The zero value has heard nothing.
type repeats struct {
	said map[key]*repeat
}

// key is what makes two lines the same.
type key struct {
	severity       uint8
	message, entry string
}

// repeat is a line and how often it came since the first time.
type repeat struct {
	record record
	until  time.Time
	count  int
}

// admit reports whether r is to be written. held says that it is the first one of
// its kind that is not.
func (s *repeats) admit(r *record) (write, held bool) {
	k := key{r.level.severity, r.message(), r.entry}
	if said := s.said[k]; said != nil {
		said.count++
		return said.count <= repeatMost, said.count == repeatMost+1
	}
	if s.said == nil {
		s.said = make(map[key]*repeat)
	}
	if len(s.said) < repeatKinds {
		s.said[k] = &repeat{record: *r, until: r.at.Add(repeatPeriod), count: 1}
	}
	return true, false
}

// ended calls say for each line that was held back and whose period has ended, or
// for all of them, and forgets it.
func (s *repeats) ended(now time.Time, all bool, say func(*record)) {
	for k, said := range s.said {
		if !all && now.Before(said.until) {
			continue
		}
		delete(s.said, k)
		if more := said.count - repeatMost; more > 0 {
			r := said.record
			r.at, r.repeated = now, more
			say(&r)
		}
	}
}
