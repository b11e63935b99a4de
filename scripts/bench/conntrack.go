package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// conntrack measures the conntrack applet.
func (b *bench) conntrack() error {
	ns, err := newNamespace("ct")
	if err != nil {
		return err
	}
	defer ns.close()
	c, err := ns.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("| work | Debian | ctbox | ratio | kernel alone | over kernel | Debian CPU | ctbox CPU | Debian MiB | ctbox MiB |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, part := range []func(*namespace, *nl.Conn) error{b.lists, b.deletes, b.updates, b.loads} {
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

// alone is a contestant in this process.
func alone(prepare, run func() error) func() (cost, error) {
	return func() (cost, error) {
		if err := prepare(); err != nil {
			return cost{}, err
		}
		start := time.Now()
		err := run()
		return cost{wall: time.Since(start)}, err
	}
}

func (b *bench) lists(ns *namespace, c *nl.Conn) error {
	filled := false
	fillOnce := func() (err error) {
		if !filled {
			err, filled = refill(c, b.flows), true
		}
		return err
	}
	discard := alone(fillOnce, func() error {
		d, err := ns.dial()
		if err != nil {
			return err
		}
		defer d.Close()
		_, err = d.Dump(context.Background(), nl.Dump{Type: nl.TypeFlowGet}, func(*nl.Message) error { return nil })
		return err
	})
	var one nl.Flow
	flow(b.flows/2, &one)
	match := fmt.Sprintf("-L -p tcp --sport %d -s 10.0.%d.%d", one.Orig.SrcPort, one.Orig.Src[2], one.Orig.Src[3])
	for _, row := range []struct{ name, args string }{
		{"-L", "-L"}, {"-L -o xml", "-L -o xml"}, {"-L -o save", "-L -o save"}, {"-L, one flow matches", match},
	} {
		err := b.compare(fmt.Sprintf("%s, %d flows", row.name, b.flows), contestants{
			debian: program(ns, fillOnce, b.debian, strings.Fields(row.args)...),
			ours:   program(ns, fillOnce, b.ours, strings.Fields(row.args)...),
			kernel: discard,
		})
		if err != nil {
			return err
		}
	}
	if !b.wanted("-L -o json") {
		return nil
	}
	if err := fillOnce(); err != nil {
		return err
	}
	json, err := timed(ns.command(b.ours, "-L", "-o", "json"))
	if err != nil {
		return err
	}
	fmt.Printf("| -L -o json, %d flows | – | %s | – | – | – | – | %s | – | %.1f |\n", b.flows, seconds(json.wall), seconds(json.cpu), float64(json.rss)/1024)
	return nil
}

const changed = 200_000 // flows that -D, -U and -E are measured with

// changeAll dumps the table and sends one request for each flow: the least that
// -D and -U can do.
func changeAll(ns *namespace, c *nl.Conn, request func(f *nl.Flow) nl.Request) error {
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
	_, err = d.DumpFlows(context.Background(), nl.Dump{Type: nl.TypeFlowGet}, func(f *nl.Flow) error {
		batch.Add(request(f))
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
	var gone nl.Flow
	return b.compare(fmt.Sprintf("-D -p tcp, %d flows", changed), contestants{
		debian: program(ns, refilled, b.debian, "-D", "-p", "tcp"),
		ours:   program(ns, refilled, b.ours, "-D", "-p", "tcp"),
		kernel: alone(refilled, func() error {
			return changeAll(ns, c, func(f *nl.Flow) nl.Request {
				gone = nl.Flow{Has: nl.HasID, Orig: f.Orig, ID: f.ID}
				return nl.Request{Type: nl.TypeFlowDelete, Family: nl.FamilyIPv4, Flow: &gone}
			})
		}),
	})
}

func (b *bench) updates(ns *namespace, c *nl.Conn) error {
	refilled := func() error { return refill(c, changed) }
	var mark nl.Flow
	// Debian's 1.4.7 needs the family, or every update fails.
	return b.compare(fmt.Sprintf("-U -f ipv4 -m 7, %d flows", changed), contestants{
		debian: program(ns, refilled, b.debian, "-U", "-f", "ipv4", "-m", "7"),
		ours:   program(ns, refilled, b.ours, "-U", "-f", "ipv4", "-m", "7"),
		kernel: alone(refilled, func() error {
			return changeAll(ns, c, func(f *nl.Flow) nl.Request {
				mark = nl.Flow{Has: nl.HasMark, Orig: f.Orig, Mark: 7}
				return nl.Request{Type: nl.TypeFlowNew, Family: nl.FamilyIPv4, Flow: &mark}
			})
		}),
	})
}

func (b *bench) loads(ns *namespace, c *nl.Conn) error {
	row := fmt.Sprintf("-R, %d lines", b.flows)
	if !b.wanted(row) {
		return nil
	}
	path := filepath.Join(b.dir, "save")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	var f nl.Flow
	for i := range b.flows {
		flow(i, &f)
		src, dst := f.Orig.Src, f.Orig.Dst
		fmt.Fprintf(w, "-A -t 3600 -u SEEN_REPLY,ASSURED -s %d.%d.%d.%d -d %d.%d.%d.%d -r %d.%d.%d.%d -q %d.%d.%d.%d -p tcp --sport %d --dport %d --reply-port-src %d --reply-port-dst %d --state ESTABLISHED\n",
			src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], dst[0], dst[1], dst[2], dst[3], src[0], src[1], src[2], src[3],
			f.Orig.SrcPort, f.Orig.DstPort, f.Orig.DstPort, f.Orig.SrcPort)
	}
	if err := errors.Join(w.Flush(), file.Close()); err != nil {
		return err
	}
	empty := func() error { return flush(c) }
	return b.compare(row, contestants{
		debian: program(ns, empty, b.debian, "-R", path),
		ours:   program(ns, empty, b.ours, "-R", path),
		kernel: alone(empty, func() error { return fill(c, b.flows) }),
	})
}

// events measures how much of a burst of new flows at full speed is printed.
func (b *bench) events(ns *namespace, c *nl.Conn) error {
	if !b.wanted("-E") {
		return nil
	}
	fmt.Printf("\n| -E, a burst of %d new flows | printed | said to be lost | CPU a printed event |\n|---|---|---|---|\n", changed)
	for _, who := range []struct{ name, path string }{{"Debian", b.debian}, {"ctbox", b.ours}} {
		for range b.runs {
			if err := b.burst(ns, c, who.name, who.path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) burst(ns *namespace, c *nl.Conn, name, path string) error {
	if err := flush(c); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(b.dir, "events"))
	if err != nil {
		return err
	}
	defer out.Close()
	var stderr bytes.Buffer
	cmd := ns.command(path, "-E", "-e", "NEW")
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	// A first flow shows that it listens.
	deadline := time.Now().Add(10 * time.Second)
	for {
		if err := flush(c); err != nil {
			return err
		}
		if err := fill(c, 1); err != nil {
			return err
		}
		if info, err := out.Stat(); err == nil && info.Size() > 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s -E printed nothing", path)
		}
		time.Sleep(20 * time.Millisecond)
	}
	before := lines(out.Name())
	if err := fill(c, changed); err != nil {
		return err
	}
	for last, quiet := int64(-1), 0; quiet < 10; {
		info, err := out.Stat()
		if err != nil {
			return err
		}
		if info.Size() == last {
			quiet++
		} else {
			last, quiet = info.Size(), 0
		}
		time.Sleep(100 * time.Millisecond)
	}
	start := time.Now()
	_ = cmd.Process.Signal(unix.SIGINT)
	if err := cmd.Wait(); err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		return err
	}
	printed := lines(out.Name()) - before
	cpu := costOf(cmd, time.Since(start)).cpu
	// The first flow was there already.
	fmt.Printf("| %s | %d of %d (%.1f %%) | %s | %.1f us |\n", name, printed, changed-1, 100*float64(printed)/float64(changed-1),
		lossSaid(stderr.String()), float64(cpu.Microseconds())/float64(max(printed, 1)))
	return nil
}

func lines(path string) int {
	b, _ := os.ReadFile(path)
	return bytes.Count(b, []byte("\n"))
}

// lossSaid is the number of lost events that a program named, or how often it
// warned without a number.
func lossSaid(stderr string) string {
	warned := strings.Count(stderr, "ENOBUFS")
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "lost") {
			return strings.TrimSpace(line)
		}
	}
	if warned > 0 {
		return fmt.Sprintf("no number, %d warnings", warned)
	}
	return "nothing"
}
