package proto

import "time"

// Agreement watches whether an external table holds as many entries as the peer says
// that it has announced (wire.Notice). Numbers differ for moments, while messages are
// missing and come again; they stay different where something is lost for good, as
// after an acknowledgement that the receiver never sent.
type Agreement struct {
	since   time.Duration // the numbers have differed, in the same direction
	samples int
	more    bool          // here than the peer has announced
	wait    time.Duration // until they have differed for long, 0: agreementTime
}

// Numbers that have differed for agreementTime, in at least agreementSamples notices
// and always in the same direction, will not become equal by themselves. If everything
// was asked for and they still differ, the time grows by agreementGrowth.
const (
	agreementTime    = 15 * time.Second
	agreementSamples = 10
	agreementGrowth  = 6
	maxAgreementTime = time.Hour
)

// Compare notes how many entries the peer has announced and how many are held here.
// It reports whether the numbers have differed for so long that something is lost: then
// everything is to be asked for. It reports that again only after a longer time.
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

// Pause forgets the comparisons, but not how often everything was asked for: the
// numbers are about to change.
func (a *Agreement) Pause() { a.samples = 0 }
