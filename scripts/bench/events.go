package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// events measures how much of a burst of new flows at full speed is printed,
// and whether what is not is said.
func (b *bench) events(ns *namespace, c *nl.Conn) error {
	head := fmt.Sprintf("\n| -E, a burst of %d new flows | printed | said to be lost | neither | CPU a printed event |\n|---|---|---|---|---|\n", changed)
	for _, args := range []string{"-E", "-E -b 212992"} {
		row := args + ", burst"
		if !b.wanted(row) {
			continue
		}
		fmt.Print(head)
		head = ""
		for _, who := range []struct{ name, path string }{{"Debian", b.debian}, {"ctbox", b.ours}} {
			for range b.runs {
				if err := b.burst(ns, c, who.name+" "+args, who.path, args); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// probe is a flow outside the burst, whose event shows that a program listens.
func probe(f *ctnetlink.Flow) {
	flow(0, f)
	f.Orig.Dst = ctnetlink.Addr{192, 0, 2, 1}
	f.Reply = f.Orig.Inverted()
}

func (b *bench) burst(ns *namespace, c *nl.Conn, row, path, args string) error {
	if err := flush(c); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(b.dir, "events"))
	if err != nil {
		return err
	}
	defer out.Close()
	var stderr bytes.Buffer
	cmd := ns.command(path, strings.Fields(args)...)
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := awaitProbe(c, out); err != nil {
		return fmt.Errorf("%s %s: %w", path, args, err)
	}
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
	_ = cmd.Process.Signal(unix.SIGINT)
	_ = cmd.Wait() // Debian's ends by the signal
	printed, err := printedEvents(out.Name())
	if err != nil {
		return err
	}
	lost, warned := lossSaid(stderr.String())
	said := fmt.Sprint(lost)
	if warned && lost == 0 {
		said = "no number, a warning"
	}
	fmt.Printf("| %s | %d (%.1f %%) | %s | %d | %.1f us |\n", row, printed, 100*float64(printed)/changed,
		said, changed-printed-lost, float64(cpu(cmd).Microseconds())/float64(max(printed, 1)))
	return nil
}

// awaitProbe makes probe flows until the event of one is in out.
func awaitProbe(c *nl.Conn, out *os.File) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		if err := flush(c); err != nil {
			return err
		}
		if err := create(c, 1, func(_ int, f *ctnetlink.Flow) { probe(f) }); err != nil {
			return err
		}
		if info, err := out.Stat(); err == nil && info.Size() > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("printed nothing")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// printedEvents counts the new flows of the burst in a file of events.
func printedEvents(path string) (int, error) {
	b, err := os.ReadFile(path)
	n := 0
	for line := range bytes.Lines(b) {
		if bytes.Contains(line, []byte("[NEW]")) && !bytes.Contains(line, []byte("dst=192.0.2.1 ")) {
			n++
		}
	}
	return n, err
}

// lossSaid is the number of lost events that a program named, and whether it
// warned of a loss at all.
func lossSaid(stderr string) (lost int, warned bool) {
	warned = strings.Contains(stderr, "ENOBUFS")
	for line := range strings.Lines(stderr) {
		var now, all int
		if n, _ := fmt.Sscanf(line, "WARNING: %d events lost, %d in all.", &now, &all); n == 2 {
			lost = all
		}
	}
	return lost, warned
}
