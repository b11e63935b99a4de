package replicate

import (
	"testing"

	"ctbox/conf"
	"ctbox/sync/internal/flowtest"
)

// A bulk that begins before the sweep after the last one is over must not have
// that sweep take what the new bulk has not announced yet.
func TestSweepEndsWhenTheNextBegins(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	all := flowtest.Flows(100 * sliceLen) // many slices, though nothing is to be removed
	r.beginExternalSweep(r.external)
	for i := range all {
		r.external.Flows.Put(&all[i], 0)
	}
	r.endExternalSweep(r.external, false)
	r.sched.RunStep()
	r.beginExternalSweep(r.external)
	r.sched.RunSteps()
	if got := r.external.Flows.Len(); got != len(all) {
		t.Errorf("%d of %d flows are left", got, len(all))
	}
	// This sweep is still to find what the second bulk did not announce. It is so much
	// that everything is asked for again before it goes.
	for bulk, want := range []int{len(all), 1} {
		r.external.Flows.Put(&all[0], 0)
		r.endExternalSweep(r.external, false)
		r.sched.RunSteps()
		if got := r.external.Flows.Len(); got != want {
			t.Errorf("%d flows are left after bulk %d, which announced one, want %d", got, bulk+2, want)
		}
		if asked := r.machine.Stats().Resyncs; asked != 1 {
			t.Errorf("asked for everything %d times", asked)
		}
		r.beginExternalSweep(r.external)
	}
}
