package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ctbox/internal/daemonlog"

	"github.com/google/go-cmp/cmp"
)

// A line of the JSON log is an object with all the information of the text.
func TestJSON(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	var out, err bytes.Buffer
	l := New(&out, &err)
	if err := l.Open(Destinations{File: name, Format: JSON}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := time.Date(2026, 11, 3, 8, 40, 1, 7000, time.FixedZone("", 3600))
	for _, c := range []struct {
		level slog.Level
		text  string
		attrs []slog.Attr
	}{
		{slog.LevelInfo, "configuring helper", nil},
		{daemonlog.LevelNotice, "initialization completed\n", nil},
		{slog.LevelWarn, "a \"name\" with \\, \x01 and \xff", nil},
		{slog.LevelError, "commit-create: File exists", []slog.Attr{slog.String(daemonlog.EntryKey, "tcp      6 src=192.0.2.1")}},
		{slog.LevelError, "other", []slog.Attr{slog.String("n", "5")}},
	} {
		r := slog.NewRecord(at, c.level, c.text, 0)
		r.AddAttrs(c.attrs...)
		l.Handle(context.Background(), r)
	}
	l.Flush()
	type object struct {
		Time       time.Time
		Level, Msg string
		PID        int
		Entry, N   string
		Repeated   int
	}
	var got []object
	for line := range strings.Lines(read(t, name)) {
		var o object
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !o.Time.Equal(at) {
			t.Errorf("%q has the time %v", line, o.Time)
		}
		o.Time = time.Time{}
		got = append(got, o)
	}
	pid := os.Getpid()
	want := []object{
		{Level: "info", Msg: "configuring helper", PID: pid},
		{Level: "notice", Msg: "initialization completed", PID: pid},
		{Level: "warning", Msg: "a \"name\" with \\, \x01 and \ufffd", PID: pid},
		{Level: "error", Msg: "commit-create: File exists", PID: pid, Entry: "tcp      6 src=192.0.2.1"},
		{Level: "error", Msg: "other", PID: pid, N: "5"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if console := out.String() + err.String(); console != read(t, name) {
		t.Errorf("the console has\n%s", console)
	}
}

// lines returns the messages of a log and how often each occurs.
func lines(log string) map[string]int {
	n := map[string]int{}
	for line := range strings.Lines(log) {
		_, text, _ := strings.Cut(line, "] (pid=")
		_, text, _ = strings.Cut(text, ") ")
		n[strings.TrimSpace(text)]++
	}
	return n
}

// A line that is repeated a few times is always written. A line that is repeated often is
// written a few times per period, followed by the number of suppressed lines.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, err bytes.Buffer
		l := New(&out, &err)
		log := slog.New(l)
		for range repeatMost {
			log.Warn("now and then")
		}
		for i := range 1000 {
			log.Warn("again and again")
			log.Error("again and again")
			log.Error("commit-create: File exists", daemonlog.EntryKey, fmt.Sprint(i)) // each flow is named
		}
		log.Info("another")
		time.Sleep(repeatPeriod) // the bubble's time
		synctest.Wait()
		want := map[string]int{
			"[warning] now and then": repeatMost, "[warning] again and again": repeatMost, "[ERROR] again and again": repeatMost,
			"[warning] repeated 990 times: again and again": 1, "[ERROR] repeated 990 times: again and again": 1,
			"[ERROR] commit-create: File exists": 1000, "[info] another": 1,
		}
		if diff := cmp.Diff(want, lines(out.String()+err.String())); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}

		// A new period begins with the lines themselves; one without repetitions reports nothing.
		err.Reset()
		for range repeatMost + 1 {
			log.Warn("again and again")
			time.Sleep(repeatPeriod / 2)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		want = map[string]int{"[warning] again and again": repeatMost + 1}
		if diff := cmp.Diff(want, lines(err.String())); diff != "" {
			t.Errorf("slowly (-want +got):\n%s", diff)
		}
	})
}

// The end of a log reports suppressed lines; a JSON log has their number in a member.
func TestRepeatsAtTheEnd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	l := New(nil, nil)
	if err := l.Open(Destinations{File: name, Format: JSON}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		slog.New(l).Warn("again")
	}
	l.Close()
	all := strings.Split(strings.TrimSpace(read(t, name)), "\n")
	var last struct {
		Msg      string
		Repeated int
	}
	if err := json.Unmarshal([]byte(all[len(all)-1]), &last); err != nil || len(all) != repeatMost+1 || last.Msg != "again" || last.Repeated != 40 {
		t.Errorf("%d lines, the last is %s", len(all), all[len(all)-1])
	}
}
