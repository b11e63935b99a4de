//go:build !no_cluster

package replicate

import (
	"testing"
	"time"
)

func TestRenewalIsDue(t *testing.T) {
	var realtime, boottime time.Duration
	event := false
	r := renewal{
		clocks: func() (time.Duration, time.Duration) { return realtime, boottime },
		uevent: func() bool { defer func() { event = false }(); return event },
	}
	realtime = 1000 * time.Hour
	r.begin()
	for _, step := range []struct {
		what           string
		realtime, boot time.Duration
		event, want    bool
	}{
		{what: "no time passes"},
		{what: "an hour passes, or the machine was suspended", realtime: time.Hour, boot: time.Hour},
		{what: "NTP moves the clock", realtime: time.Second + 1900*time.Millisecond, boot: time.Second},
		{what: "a snapshot of an hour ago", realtime: time.Hour, want: true},
		{what: "the look after that", realtime: time.Second, boot: time.Second},
		{what: "the clock is set back", realtime: -time.Minute, want: true},
		{what: "a new generation id", event: true, want: true},
		{what: "the look after that"},
	} {
		realtime, boottime, event = realtime+step.realtime, boottime+step.boot, step.event
		if got := r.due(); got != step.want {
			t.Errorf("%s: due %v", step.what, got)
		}
	}
}

func TestNewGenerationUevent(t *testing.T) {
	const head = "change@/devices/platform/VMGENID\x00ACTION=change\x00DEVPATH=/devices/platform/VMGENID\x00SUBSYSTEM=platform\x00"
	for event, want := range map[string]bool{
		head + "NEW_VMGENID=1\x00SEQNUM=1234\x00": true,
		head + "NEW_VMGENID=1":                    true,
		head + "NEW_VMGENID=0\x00":                false,
		head + "X=NEW_VMGENID=1\x00":              false,
		head:                                      false,
		"":                                        false,
	} {
		if got := isNewGeneration([]byte(event)); got != want {
			t.Errorf("%q: %v", event, got)
		}
	}
}

// The machine's own clocks and socket report nothing while nothing happens, and a look, which
// comes before each transmission, allocates nothing.
func TestRenewalOfThisMachine(t *testing.T) {
	u := openUevents()
	defer u.close()
	u.changed()
	r := renewal{clocks: clocks, uevent: u.changed}
	r.begin()
	if r.due() {
		t.Error("a renewal is due at once")
	}
	if n := testing.AllocsPerRun(100, func() { r.due() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
