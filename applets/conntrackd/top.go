package conntrackd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"ctbox/applets/conntrackd/control"
	"ctbox/applets/internal/screen"
	"ctbox/conf"
	"ctbox/internal/jsonout"
)

// topEvery is how often --top asks the daemon.
const topEvery = time.Second

// runTop is --top: it shows the daemon's metrics and the rates of counters every second. On a
// terminal, metrics that change come first; otherwise it writes a stream of JSON objects. It
// ends with ctx or when q is typed.
func runTop(ctx context.Context, cmd *command, log *slog.Logger, stdout io.Writer) int {
	cfg, ok := load(cmd.config, conf.Always, log)
	if !ok {
		return exitFailed
	}
	err := (&top{path: cfg.General.UNIXPath}).run(ctx, stdout, cmd.json)
	var connect *control.ConnectError
	switch {
	case err == nil || ctx.Err() != nil:
		return exitOK
	case errors.As(err, &connect):
		log.Error("can't connect: is conntrackd running? appropriate permissions?")
	default:
		log.Error(err.Error())
	}
	return exitFailed
}

// top is a running --top.
type top struct {
	path    string // of the daemon's socket
	at      time.Time
	seconds float64 // since the previous samples; 0 for the first
	samples []sample
	before  map[string]float64
}

// sample is a line of the metrics.
type sample struct {
	name    string // with its labels, as in the text
	text    string // the value
	value   float64
	counter bool
	rate    float64 // of a counter, per second
}

func (t *top) run(ctx context.Context, stdout io.Writer, json bool) error {
	out, ok := stdout.(*os.File)
	if !ok || json || !screen.IsTerminal(out) {
		return t.watch(ctx, nil, func() error {
			_, err := stdout.Write(t.appendJSON(nil))
			return err
		})
	}
	if err := t.ask(ctx); err != nil { // before the terminal changes to raw mode
		return err
	}
	scr, err := screen.Open(os.Stdin, out)
	if err != nil {
		return err
	}
	defer scr.Close()
	return t.watch(ctx, scr.Events(), func() error {
		width, height := scr.Size()
		return scr.Paint(t.paint(width, height))
	})
}

// watch polls the daemon and calls show until ctx ends or q is typed.
func (t *top) watch(ctx context.Context, letters <-chan byte, show func() error) error {
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for asked := false; ; {
		if !asked {
			if err := t.ask(ctx); err != nil {
				return err
			}
		}
		if err := show(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			asked = false
		case letter := <-letters:
			if letter == 'q' {
				return nil
			}
			asked = true // only paint again
		}
	}
}

// ask reads new samples from the daemon.
func (t *top) ask(ctx context.Context) error {
	var text bytes.Buffer
	if err := control.Ask(ctx, t.path, control.Metrics, nil, &text); err != nil {
		return err
	}
	now := time.Now()
	t.seconds = 0
	if !t.at.IsZero() {
		t.seconds = now.Sub(t.at).Seconds()
	}
	t.at = now
	t.read(text.String())
	return nil
}

// read parses the text of -s metrics.
func (t *top) read(text string) {
	t.samples = t.samples[:0]
	values := make(map[string]float64)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		s := sample{name: line[:i], text: line[i+1:], value: decimal(line[i+1:])}
		family, _, _ := strings.Cut(s.name, "{")
		s.counter = strings.HasSuffix(family, "_total")
		if strings.HasSuffix(family, "_info") {
			continue
		}
		if was, ok := t.before[s.name]; ok && s.counter && t.seconds > 0 {
			s.rate = max(s.value-was, 0) / t.seconds
		}
		values[s.name] = s.value
		t.samples = append(t.samples, s)
	}
	t.before = values
}

// decimal parses a number of the metrics: digits and an optional fraction.
func decimal(text string) (v float64) {
	unit := 0.0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '.':
			unit = 1
		case c < '0' || c > '9':
			return v
		case unit == 0:
			v = 10*v + float64(c-'0')
		default:
			unit /= 10
			v += unit * float64(c-'0')
		}
	}
	return v
}

// Columns of the view, beside the names.
const (
	valueWidth = 16
	rateWidth  = 12
)

// paint shows counters that change, then gauges, then the other counters. It omits metrics
// that are 0.
func (t *top) paint(width, height int) [][]byte {
	nameWidth := max(width-valueWidth-rateWidth, 1)
	lines := [][]byte{[]byte("conntrackd --top, every " + topEvery.String() + "  " + t.at.Format(time.TimeOnly) + "  q quit")}
	title := screen.AppendRight([]byte("METRIC"), []byte("VALUE"), nameWidth+valueWidth)
	title = screen.AppendRight(title, []byte("PER SECOND"), width)
	lines = append(lines, append(append([]byte(screen.Bold), title[:min(len(title), width)]...), screen.Plain...))
	for _, wanted := range [...]func(*sample) bool{
		func(s *sample) bool { return s.rate > 0 },
		func(s *sample) bool { return !s.counter },
		func(s *sample) bool { return s.counter && s.rate == 0 },
	} {
		for i := range t.samples {
			s := &t.samples[i]
			if s.value == 0 || !wanted(s) {
				continue
			}
			name := strings.NewReplacer(`"`, "", "{", " ", "}", "", ",", " ").Replace(strings.TrimPrefix(s.name, "conntrackd_"))
			line := []byte(name)
			if len(line) > nameWidth {
				line = append(line[:nameWidth-1], '~')
			}
			line = screen.AppendRight(line, []byte(s.text), nameWidth+valueWidth)
			if s.rate > 0 {
				line = screen.AppendRight(line, screen.AppendNumber(nil, s.rate, false), width)
			}
			lines = append(lines, line[:min(len(line), width)])
		}
	}
	if len(lines[0]) > width {
		lines[0] = lines[0][:width]
	}
	return lines[:min(len(lines), height)]
}

// appendJSON writes all samples as an object on a line.
func (t *top) appendJSON(dst []byte) []byte {
	o := jsonout.Object{Dst: dst}
	o.Begin()
	o.Nanoseconds("time", uint64(t.at.UnixNano()))
	o.List("metrics", len(t.samples), func(i int) {
		s := &t.samples[i]
		name, labels, _ := strings.Cut(strings.TrimSuffix(s.name, "}"), "{")
		o.Token("name", name)
		if labels != "" {
			// name="value", where a value is escaped as in JSON and has no ="
			o.Name("labels")
			o.Dst = append(o.Dst, `{"`+strings.NewReplacer(`="`, `":"`, `",`, `","`).Replace(labels)+"}"...)
		}
		o.Name("value")
		o.Dst = append(o.Dst, s.text...)
		if s.counter && t.seconds > 0 {
			o.Decimal("per_second", s.rate, 1)
		}
	})
	o.Line()
	return o.Dst
}
