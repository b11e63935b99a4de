// Package flows is the flows applet: `ctbox flows` prints the records of flows that
// conntrackd's Export clause writes, as JSON objects, one per line.
package flows

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctbox/applets/internal/command"
	"ctbox/conf"
	"ctbox/internal/export"
	"ctbox/internal/protofile"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/follow"

	"golang.org/x/sys/unix"
)

// The exit statuses.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// options are the options of the command line.
type options struct {
	once                             bool
	records, active, protos, address string
	noDestinations                   bool

	choice export.Choice
	filter conf.Filter
	period time.Duration // of --active-timeout
}

const description = `The records are those of Export json in conntrackd.conf(5): objects as conntrack -o json
prints them, with the event new at a flow's begin, destroy at its end, and update for a flow
that goes on (--active-timeout). A record has the member origin if it is about a flow that
existed at the start (existing) or whose event the kernel could not deliver (made_up).

It runs until it is interrupted. With --once it prints a record for each flow of the table
and ends.

The exit status is 0, 1 after an error, 2 for a wrong command line.`

// Command returns the command `ctbox flows`.
func Command() *command.Command {
	var o options
	c := &command.Command{
		Name:        "flows",
		Usage:       "print records of flows and translations as JSON",
		Description: description,
		Misused:     exitUsage,
		Options: []command.Option{
			{Name: "once", Usage: "print the flows of the table, and end", On: &o.once},
			{Name: "records", Usage: "what is recorded, `WORDS`: flow (the begin and end of each flow), or nat (of translated flows only)", Text: &o.records},
			{Name: "no-destinations", Usage: "with --records nat: leave out destinations (RFC 6888)", On: &o.noDestinations},
			{Name: "active-timeout", Usage: "also record flows that go on, every `SECONDS`", Text: &o.active},
			{Name: "proto", Usage: "only flows of `PROTO`, a name or number, or several with commas", Text: &o.protos},
			{Name: "address", Usage: "only flows whose original or reply source is in `NETWORK`, or in one of several with commas", Text: &o.address},
		},
	}
	c.Run = func(ctx context.Context, stdout, stderr io.Writer) int {
		if err := o.check(); err != nil {
			return c.Misuse(stderr, err)
		}
		if err := o.run(ctx, c, stdout, stderr); err != nil {
			fmt.Fprintf(stderr, "ctbox flows: %v\n", err)
			return exitFailure
		}
		return exitOK
	}
	return c
}

// check sets choice, filter and period, or returns an error that names the option.
func (o *options) check() error {
	switch o.records {
	case "", "flow":
		o.choice.Flow = true
	case "nat":
		o.choice.NAT = true
	default:
		return fmt.Errorf("--records %s: it is flow or nat", o.records)
	}
	o.choice.WithoutDestinations = o.noDestinations
	switch {
	case o.noDestinations && !o.choice.NAT:
		return errors.New("--no-destinations is for --records nat")
	case o.active != "" && (o.once || !o.choice.Flow):
		return errors.New("--active-timeout is for --records flow without --once")
	}
	if o.active != "" {
		n, err := strconv.ParseUint(o.active, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("--active-timeout %s: it is a number of seconds from 1 to %d", o.active, math.MaxInt32)
		}
		o.period = time.Duration(n) * time.Second
	}
	if o.protos != "" {
		o.filter.Protocol.Action = conf.Accept
		for word := range strings.SplitSeq(o.protos, ",") {
			number, ok := protocol(word)
			if !ok {
				return fmt.Errorf("--proto %s: unknown protocol %q", o.protos, word)
			}
			o.filter.Protocol.Protocols.Add(number)
		}
	}
	if o.address != "" {
		o.filter.Address.Action = conf.Accept
		for word := range strings.SplitSeq(o.address, ",") {
			p, err := network(word)
			if err != nil {
				return fmt.Errorf("--address %s: %q is not an address or a network", o.address, word)
			}
			if !slices.Contains(o.filter.Address.Prefixes, p) {
				o.filter.Address.Prefixes = append(o.filter.Address.Prefixes, p)
			}
		}
	}
	return nil
}

// protocol returns the number of a layer-4 protocol: a number, a name that outputs use, or
// one of /etc/protocols.
func protocol(word string) (uint8, bool) {
	if n, err := strconv.ParseUint(word, 10, 8); err == nil {
		return uint8(n), true
	}
	for n := range 256 {
		if name := ctnetlink.ProtoName(uint8(n)); name == word && name != ctnetlink.ProtoName(math.MaxUint8) {
			return uint8(n), true
		}
	}
	text, _ := os.ReadFile(protofile.File)
	n, ok := protofile.Parse(string(text))[word]
	return n, ok
}

// network parses an address or a network and clears the bits behind its prefix.
func network(word string) (netip.Prefix, error) {
	if !strings.Contains(word, "/") {
		addr, err := netip.ParseAddr(word)
		if err == nil && addr.Zone() != "" {
			err = errors.New("zone")
		}
		return netip.PrefixFrom(addr, addr.BitLen()), err
	}
	p, err := netip.ParsePrefix(word)
	return p.Masked(), err
}

func (o *options) run(ctx context.Context, c *command.Command, stdout, stderr io.Writer) error {
	switch {
	case o.once:
		return o.dump(ctx, stdout)
	case command.Exec(ctx) != "": // --netns has moved this thread only
		return restart(c)
	}
	return o.follow(ctx, stderr)
}

// restart executes the program again with the same options, so that all of its threads are in
// this thread's network namespace: an exporter has goroutines on several threads. It returns
// if that fails.
func restart(c *command.Command) error {
	args := []string{"ctbox", c.Name}
	for _, o := range c.Options {
		switch {
		case o.Name == "netns":
		case o.On != nil && *o.On:
			args = append(args, command.Dashed(o.Name))
		case o.Text != nil && *o.Text != "":
			args = append(args, command.Dashed(o.Name)+"="+*o.Text)
		}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", program, unix.Exec(program, args, os.Environ()))
}

// follow prints records until ctx ends.
func (o *options) follow(ctx context.Context, stderr io.Writer) error {
	general := conf.Default().General
	general.HashLimit = math.MaxInt32 // the kernel has a limit
	e, err := export.New(export.Options{
		Format:        conf.ExportJSON.String(),
		Destination:   export.Destination{File: "-"},
		Choice:        o.choice,
		ActiveTimeout: o.period,
		QueueLimit:    queueLimit,
		Log:           slog.New(&log{out: stderr}),
	}, &general, &o.filter)
	if err != nil {
		return err
	}
	e.Run(ctx)
	return nil
}

// queueLimit is how many records wait for a slow terminal or pipe.
const queueLimit = 1 << 16

// dump prints a record for each flow of the table.
func (o *options) dump(ctx context.Context, stdout io.Writer) error {
	conn, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer conn.Close()
	out := bufio.NewWriterSize(stdout, 64<<10)
	json, filter := export.JSON{Choice: o.choice}, follow.NewFilter(&o.filter, nil)
	var line []byte
	_, err = ctnetlink.DumpFlows(ctx, conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		if follow.Incomplete(f) != "" || !filter.Passes(f, false) {
			return nil
		}
		line = json.AppendRecord(line[:0], &export.Record{Flow: f, Kind: export.Begin, Origin: export.Existing, Time: time.Now().UnixNano()})
		_, err := out.Write(line)
		return err
	})
	if err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	return out.Flush()
}

// log writes the exporter's messages, one per line.
type log struct{ out io.Writer }

func (l *log) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l *log) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *log) WithGroup(string) slog.Handler                    { return l }

func (l *log) Handle(_ context.Context, r slog.Record) error {
	_, err := fmt.Fprintf(l.out, "ctbox flows: %s\n", strings.TrimPrefix(r.Message, "export json file -: "))
	return err
}
