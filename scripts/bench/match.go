package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

const (
	predicates = 5000
	// debianRuns of Debian's program are measured, for all of which predicates runs are
	// calculated: each reads the table.
	debianRuns = 10
)

// matches measures --match: one file of predicates beside as many runs of Debian's -D.
func (b *bench) matches(ns *namespace, c *nl.Conn) error {
	// Every hundredth flow, so that a predicate finds one.
	numbered := func(i int) *ctnetlink.Flow {
		var f ctnetlink.Flow
		flow(i*(b.flows/predicates), &f)
		return &f
	}
	for _, row := range []struct {
		name    string
		command []string
		options func(i int) string
		refill  bool // the table has to be filled for each run
		dump    bool // ours reads the table, as the kernel's contestant then does
	}{
		{"-D --match, an address and a port each", []string{"-D"}, func(i int) string {
			o := &numbered(i).Orig
			return fmt.Sprintf("-p tcp -s %s --sport %d", address(&o.Src), o.SrcPort)
		}, true, true},
		{"-D --match, whole tuples and zones", []string{"-D"}, func(i int) string {
			o := &numbered(i).Orig
			return fmt.Sprintf("-p tcp -s %s -d %s --sport %d --dport %d -w 0", address(&o.Src), address(&o.Dst), o.SrcPort, o.DstPort)
		}, true, false},
		{"-C --match, prefixes, ranges, marks, either direction", []string{"-C"}, func(i int) string {
			o := &numbered(i).Orig
			switch i % 5 {
			case 0:
				return fmt.Sprintf("-s 172.16.%d.0/24 -d %s", i%250, address(&o.Dst))
			case 1:
				return fmt.Sprintf("-p tcp -d %s --sport %d-%d", address(&o.Dst), 62000+i%500, 62010+i%500)
			case 2:
				return fmt.Sprintf("--any-addr 172.17.%d.%d", i>>8&255, i&255)
			case 3:
				return fmt.Sprintf("-m %d/0xffff -u !SEEN_REPLY", i)
			}
			return fmt.Sprintf("-s %s:%d", address(&o.Src), o.SrcPort)
		}, false, true},
	} {
		name := fmt.Sprintf("%s, %d lines, %d flows", row.name, predicates, b.flows)
		if !b.wanted(name) {
			continue
		}
		path := filepath.Join(b.dir, "predicates")
		if err := writeLines(path, row.options); err != nil {
			return err
		}
		filled := false
		prepare := func() error {
			if row.refill || !filled {
				filled = true
				return refill(c, b.flows)
			}
			return nil
		}
		who := contestants{
			ours: program(ns, prepare, b.ours, append(row.command, "--match", path)...),
			kernel: func() (total cost, err error) {
				if err := prepare(); err != nil {
					return total, err
				}
				if row.dump {
					if total, err = discard(ns); err != nil {
						return total, err
					}
				}
				if row.refill {
					deletes, err := alone(func() error { return nil }, func() error { return deleteAll(c, numbered) })()
					total.wall += deletes.wall
					total.cpu += deletes.cpu
					return total, err
				}
				return total, nil
			},
		}
		if row.refill {
			who.debian = func() (total cost, err error) {
				if err := prepare(); err != nil {
					return total, err
				}
				for i := range debianRuns {
					one, err := timed(ns.command(b.debian, append([]string{"-D"}, strings.Fields(row.options(i*(predicates/debianRuns)))...)...))
					if err != nil {
						return total, err
					}
					total.wall += one.wall * predicates / debianRuns
					total.cpu += one.cpu * predicates / debianRuns
					total.rss = max(total.rss, one.rss)
				}
				return total, nil
			}
		}
		if err := b.compare(name, who); err != nil {
			return err
		}
	}
	return nil
}

func writeLines(path string, line func(i int) string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	for i := range predicates {
		fmt.Fprintln(w, line(i))
	}
	return errors.Join(w.Flush(), file.Close())
}

// deleteAll is the least that the deletion of the predicates' flows can take.
func deleteAll(c *nl.Conn, numbered func(i int) *ctnetlink.Flow) error {
	p := c.NewPipeline(context.Background(), func(*nl.Batch) error { return nil })
	batch, err := p.Batch()
	if err != nil {
		return err
	}
	for i := range predicates {
		gone := ctnetlink.Flow{Orig: numbered(i).Orig}
		batch.Add(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv4, Attrs: gone.Append})
		if !batch.Full() {
			continue
		}
		if err := p.Submit(batch); err != nil {
			return err
		}
		if batch, err = p.Batch(); err != nil {
			return err
		}
	}
	return errors.Join(p.Submit(batch), p.Close())
}
