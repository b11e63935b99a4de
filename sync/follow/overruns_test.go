package follow

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
)

// Under a steady overload the log has a few lines, and no lost event is left out.
func TestLostEventsAreSaidOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fo := unwired()
		var log bytes.Buffer
		fo.log = daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		fo.grownOut = true
		fo.status.BufferSize = 1
		for range 100 {
			fo.overrun(3)
		}
		time.Sleep(lostPeriod + 1)
		synctest.Wait()
		lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
		if len(lines) != 2 || !bytes.Contains(lines[0], []byte("dropped 3 events")) || !bytes.Contains(lines[1], []byte("dropped 297 events")) {
			t.Errorf("the log has\n%s", &log)
		}
		if fo.status.Lost != 300 || fo.status.Overruns != 100 {
			t.Errorf("counted %+v", fo.status)
		}
	})
}

// The first reading comes within a second of an overrun, later ones are put off longer
// and longer, and after a quiet time it begins anew.
func TestReadingsAfterOverruns(t *testing.T) {
	fo := unwired()
	fo.cfg.NetlinkOverrunResync = 30 * time.Second
	fo.grownOut = true
	overrun := func(after time.Duration) time.Duration {
		fo.sched.SetNow(fo.sched.Now() + after)
		fo.overrun(1)
		fo.overrun(1) // of the same burst
		delay := fo.timers.resync.Due() - fo.sched.Now()
		fo.timers.resync.Stop() // it was read
		return delay
	}
	if got := overrun(0); got > time.Second {
		t.Errorf("the first reading comes after %v", got)
	}
	for _, want := range []time.Duration{30, 60, 120, 240, 480, 480} {
		if got := overrun(time.Second); got != want*time.Second {
			t.Errorf("the next reading comes after %v, want %d s", got, want)
		}
	}
	if got := overrun(time.Hour); got > time.Second {
		t.Errorf("after a quiet hour a reading comes after %v", got)
	}
	if fo.status.Missing != 16 {
		t.Errorf("%d events are missing", fo.status.Missing)
	}
	fo.cfg.NetlinkOverrunResync = 0
	if fo.overrun(1); fo.timers.resync.Pending() {
		t.Error("the table is read though NetlinkOverrunResync is off")
	}
}

// A small buffer of an old file becomes the default at the first overrun, and goes on
// from there if the file allows it. NetlinkBufferSizeFixed leaves what the file says.
func TestBufferGrows(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	for _, c := range []struct {
		name       string
		size, most uint32
		fixed      bool
		want       []uint64 // at the start and after each overrun
	}{
		{"nothing said", 0, 0, false, []uint64{8 * mib, 8 * mib}},
		{"small", 64 * kib, 128 * kib, false, []uint64{64 * kib, 8 * mib, 8 * mib}},
		{"no maximum", 64 * kib, 0, false, []uint64{64 * kib, 8 * mib, 8 * mib}},
		{"larger maximum", 2 * mib, 32 * mib, false, []uint64{2 * mib, 8 * mib, 16 * mib, 32 * mib, 32 * mib}},
		{"larger than the default", 16 * mib, 32 * mib, false, []uint64{16 * mib, 32 * mib, 32 * mib}},
		{"above the maximum", 4 * mib, 2 * mib, false, []uint64{8 * mib, 8 * mib}},
		{"small and fixed", 64 * kib, 128 * kib, true, []uint64{64 * kib, 128 * kib, 128 * kib}},
		{"fixed without a maximum", 64 * kib, 0, true, []uint64{2 * uint64(systemBuffer())}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fo := unwired()
			fo.burstBuffer = 8 * mib
			g := fo.cfg
			g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth, g.NetlinkBufferSizeFixed = c.size, c.most, c.fixed
			var err error
			netnstest.New(t, "buffer").Do(func() { err = fo.subscribe() })
			if err != nil {
				t.Fatal(err)
			}
			defer fo.events.Close()
			for i, want := range c.want {
				if i > 0 {
					fo.overrun(1)
				}
				if got := uint64(fo.events.Buffer()); got != want || fo.status.BufferSize != want {
					t.Errorf("after %d overruns the buffer has %d bytes, the status %d, want %d", i, got, fo.status.BufferSize, want)
				}
			}
		})
	}
}
