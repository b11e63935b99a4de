package proto

import "time"

// Agreement detects that an external table no longer holds as many entries as the peer
// has announced (wire.Notice). The numbers differ briefly while messages are lost and
// resent. They differ permanently when something is lost for good, for example after a
// forged acknowledgement.
type Agreement struct {
	since   time.Duration // the numbers have differed, in the same direction
	samples int
	more    bool          // more entries are held here than the peer has announced
	wait    time.Duration // how long they may differ, 0 for agreementTime
}

// Numbers that differ for agreementTime, in at least agreementSamples notices and always
// in the same direction, will not become equal without a resync. If they still differ
// after one, the time before the next grows by agreementGrowth.
const (
	agreementTime    = 15 * time.Second
	agreementSamples = 10
	agreementGrowth  = 6
	maxAgreementTime = time.Hour
)

// Compare records how many entries the peer has announced and how many are held here. It
// reports whether the numbers have differed for so long that the owner should request a
// resync. It repeats that report only after a longer time.
func (a *Agreement) Compare(now time.Duration, announced, held int) (lost bool) {
	if announced == held {
		*a = Agreement{}
		return false
	}
	if more := held > announced; a.samples == 0 || more != a.more {
		a.since, a.samples, a.more = now, 0, more
	}
	a.samples++
	a.wait = max(a.wait, agreementTime)
	if a.samples < agreementSamples || now-a.since < a.wait {
		return false
	}
	a.samples = 0
	a.wait = min(agreementGrowth*a.wait, maxAgreementTime)
	return true
}

// Pause discards the comparisons, because the numbers are about to change. It keeps the
// growth of the waiting time.
func (a *Agreement) Pause() { a.samples = 0 }
