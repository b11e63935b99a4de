package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// conntrack measures the conntrack applet.
func (b *bench) conntrack() error {
	ns, err := newNamespace("ct")
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := ns.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	parts := []func(*namespace, *nl.Conn) error{b.startUp, b.lists, b.deletes, b.updates, b.loads, b.matches}
	if b.million {
		parts = append(parts, b.memory)
	}
	fmt.Println(tableHead)
	for _, part := range parts {
		if err := part(ns, c); err != nil {
			return err
		}
	}
	return b.events(ns, c)
}

// program is a contestant that runs a program after an untimed preparation.
func program(ns *namespace, prepare func() error, path string, args ...string) func() (cost, error) {
	return func() (cost, error) {
		if err := prepare(); err != nil {
			return cost{}, err
		}
		return timed(ns.command(path, args...))
	}
}

// alone is a contestant that runs in this process.
func alone(prepare, run func() error) func() (cost, error) {
	return func() (cost, error) {
		if err := prepare(); err != nil {
			return cost{}, err
		}
		before, err := cpuUsed(unix.RUSAGE_SELF)
		if err != nil {
			return cost{}, err
		}
		start := time.Now()
		if err := run(); err != nil {
			return cost{}, err
		}
		wall := time.Since(start)
		after, err := cpuUsed(unix.RUSAGE_SELF)
		return cost{wall: wall, cpu: after - before}, err
	}
}

const starts = 20 // a single one is too short to measure

// startUp measures commands with almost no work.
func (b *bench) startUp(ns *namespace, c *nl.Conn) error {
	repeated := func(path, arg string) func() (cost, error) {
		return func() (total cost, err error) {
			for range starts {
				one, err := timed(ns.command(path, arg))
				if err != nil {
					return cost{}, err
				}
				total.wall += one.wall / starts
				total.cpu += one.cpu / starts
			}
			return total, nil
		}
	}
	for _, arg := range []string{"-V", "-C"} {
		if err := b.compare(arg, contestants{debian: repeated(b.debian, arg), ours: repeated(b.ours, arg)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) lists(ns *namespace, c *nl.Conn) error {
	filled := false
	fillOnce := func() (err error) {
		if !filled {
			err, filled = refill(c, b.flows), true
		}
		return err
	}
	discarded := func() (cost, error) {
		if err := fillOnce(); err != nil {
			return cost{}, err
		}
		return discard(ns)
	}
	var one ctnetlink.Flow
	flow(b.flows/2, &one)
	match := fmt.Sprintf("-L -p tcp --sport %d -s %s", one.Orig.SrcPort, address(&one.Orig.Src))
	for _, row := range []struct{ name, args string }{
		{"-L", "-L"}, {"-L -o xml", "-L -o xml"}, {"-L -o save", "-L -o save"}, {"-L, one flow matches", match},
	} {
		err := b.compare(fmt.Sprintf("%s, %d flows", row.name, b.flows), contestants{
			debian: program(ns, fillOnce, b.debian, strings.Fields(row.args)...),
			ours:   program(ns, fillOnce, b.ours, strings.Fields(row.args)...),
			kernel: discarded,
		})
		if err != nil {
			return err
		}
	}
	return b.compare(fmt.Sprintf("-L -o json, %d flows", b.flows), contestants{
		ours: program(ns, fillOnce, b.ours, "-L", "-o", "json"), kernel: discarded,
	})
}

// memory measures the memory for a table of a million flows.
func (b *bench) memory(ns *namespace, c *nl.Conn) error {
	const flows = million
	filled := func() error { return refill(c, flows) }
	for _, args := range []string{"-L", "-D -p tcp"} {
		err := b.compare(fmt.Sprintf("%s, %d flows", args, flows), contestants{
			debian: program(ns, filled, b.debian, strings.Fields(args)...),
			ours:   program(ns, filled, b.ours, strings.Fields(args)...),
		})
		if err != nil {
			return err
		}
	}
	return flush(c)
}

const changed = 200_000 // flows that -D, -U and -E are measured with

// changeAll dumps the table and adds requests for each flow to a batch: the least work of -D and
// -U.
func changeAll(ns *namespace, c *nl.Conn, requests func(f *ctnetlink.Flow, b *nl.Batch)) error {
	d, err := ns.dial()
	if err != nil {
		return err
	}
	defer d.Close()
	p := c.NewPipeline(context.Background(), func(*nl.Batch) error { return nil })
	batch, err := p.Batch()
	if err != nil {
		return err
	}
	_, err = ctnetlink.DumpFlows(context.Background(), d, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		requests(f, batch)
		if !batch.Full() {
			return nil
		}
		if err := p.Submit(batch); err != nil {
			return err
		}
		var err error
		batch, err = p.Batch()
		return err
	})
	if err == nil {
		err = p.Submit(batch)
	}
	return errors.Join(err, p.Close())
}

func (b *bench) deletes(ns *namespace, c *nl.Conn) error {
	refilled := func() error { return refill(c, changed) }
	var gone ctnetlink.Flow
	return b.compare(fmt.Sprintf("-D -p tcp, %d flows", changed), contestants{
		debian: program(ns, refilled, b.debian, "-D", "-p", "tcp"),
		ours:   program(ns, refilled, b.ours, "-D", "-p", "tcp"),
		kernel: alone(refilled, func() error {
			return changeAll(ns, c, func(f *ctnetlink.Flow, b *nl.Batch) {
				gone = ctnetlink.Flow{Has: ctnetlink.HasID, Orig: f.Orig, ID: f.ID}
				b.Add(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv4, Attrs: gone.Append})
			})
		}),
	})
}

func (b *bench) updates(ns *namespace, c *nl.Conn) error {
	refilled := func() error { return refill(c, changed) }
	var mark, ask ctnetlink.Flow
	// Debian's 1.4.7 needs the family, or every update fails. With more than a
	// few hundred flows it fails anyway, since it asks for each while the dump
	// is still coming over the same socket.
	return b.compare(fmt.Sprintf("-U -f ipv4 -m 7, %d flows", changed), contestants{
		debian: program(ns, refilled, b.debian, "-U", "-f", "ipv4", "-m", "7"),
		ours:   program(ns, refilled, b.ours, "-U", "-f", "ipv4", "-m", "7"),
		kernel: alone(refilled, func() error {
			// What is printed is the flow as it is after the update.
			return changeAll(ns, c, func(f *ctnetlink.Flow, b *nl.Batch) {
				mark = ctnetlink.Flow{Has: ctnetlink.HasMark, Orig: f.Orig, Mark: 7}
				ask = ctnetlink.Flow{Orig: f.Orig}
				b.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Family: nl.FamilyIPv4, Attrs: mark.Append})
				b.Add(nl.Request{Type: ctnetlink.TypeFlowGet, Family: nl.FamilyIPv4, Attrs: ask.Append})
			})
		}),
	})
}

func (b *bench) loads(ns *namespace, c *nl.Conn) error {
	empty := func() error { return flush(c) }
	for _, file := range []struct {
		row  string
		flow func(i int, f *ctnetlink.Flow)
	}{
		{fmt.Sprintf("-R, %d lines", b.flows), flow},
		{fmt.Sprintf("-R, %d lines with --src-nat and -m", b.flows), translatedFlow},
	} {
		if !b.wanted(file.row) {
			continue
		}
		path := filepath.Join(b.dir, "save")
		if err := save(path, b.flows, file.flow); err != nil {
			return err
		}
		err := b.compare(file.row, contestants{
			debian: program(ns, empty, b.debian, "-R", path),
			ours:   program(ns, empty, b.ours, "-R", path),
			kernel: alone(empty, func() error { return create(c, b.flows, file.flow) }),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// translatedFlow is flow number i with its source translated, and a mark.
// Another address for every 65536 flows keeps the replies' tuples apart.
func translatedFlow(i int, f *ctnetlink.Flow) {
	flow(i, f)
	f.NATSrc = ctnetlink.NAT{Addr: ctnetlink.Addr{203, 0, 113, f.Orig.Src[2]}, HasAddr: true, Port: f.Orig.SrcPort, HasPort: true}
	f.Mark = 5
	f.Has |= ctnetlink.HasNATSrc | ctnetlink.HasMark
}

// save writes n flows that describe fills in as -o save does.
func save(path string, n int, describe func(i int, f *ctnetlink.Flow)) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	var f ctnetlink.Flow
	for i := range n {
		describe(i, &f)
		src, dst := address(&f.Orig.Src), address(&f.Orig.Dst)
		fmt.Fprintf(w, "-A -t 3600 -u SEEN_REPLY,ASSURED -s %s -d %s -r %s -q %s -p tcp --sport %d --dport %d --reply-port-src %d --reply-port-dst %d --state ESTABLISHED",
			src, dst, dst, src, f.Orig.SrcPort, f.Orig.DstPort, f.Orig.DstPort, f.Orig.SrcPort)
		if f.Has&ctnetlink.HasNATSrc != 0 {
			fmt.Fprintf(w, " --src-nat %s:%d -m %d", address(&f.NATSrc.Addr), f.NATSrc.Port, f.Mark)
		}
		_ = w.WriteByte('\n') // Flush has the error
	}
	return errors.Join(w.Flush(), file.Close())
}

func address(a *ctnetlink.Addr) string { return netip.AddrFrom4([4]byte(a[:4])).String() }
