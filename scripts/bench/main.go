// Command bench compares ctbox with Debian's conntrack-tools on this machine, in one run, each
// on a network namespace with the same flows, and prints tables of medians and ratios. Where it
// makes sense it also measures the kernel alone, with a client that does the least possible.
//
//	go run ./scripts/bench [-runs N] [-flows N] [-only REGEXP] [-million] -bin DIR
//
// On a machine with other load, run it with `chrt -f 1`: all contestants then take precedence
// over everything else.
//
// It needs root, Debian's conntrack in the path, and the ctbox binary in DIR. If
// net.netfilter.nf_conntrack_max is too small it is raised and restored. Nothing else outside
// the namespaces that it creates is changed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

type bench struct {
	runs   int
	flows  int    // in the table that is listed
	ours   string // path of our conntrack
	debian string // path of Debian's
	dir    string // scratch files
	only   *regexp.Regexp

	million        bool   // a million flows, too
	oursd, debiand string // of conntrackd
	replicated     []int  // flows in the replicated tables
	rate           int    // new flows a second while replicating, 0 for full speed
}

const million = 1_000_000

func main() {
	var b bench
	bin := flag.String("bin", "bin", "folder with our programs")
	only := flag.String("only", "", "measure only the rows that match this regular expression")
	flag.IntVar(&b.runs, "runs", 3, "runs of each row; the median counts")
	flag.IntVar(&b.flows, "flows", 500_000, "flows in the table that is listed")
	flag.BoolVar(&b.million, "million", false, "list, delete and replicate a million flows, too (minutes a run)")
	flag.StringVar(&b.debian, "debian", "/usr/sbin/conntrack", "Debian's conntrack")
	flag.StringVar(&b.debiand, "debiand", "/usr/sbin/conntrackd", "Debian's conntrackd")
	flag.IntVar(&b.rate, "rate", 20_000, "new flows a second while replicating, 0 for full speed")
	flag.Parse()
	b.replicated = []int{changed}
	if b.million {
		b.replicated = append(b.replicated, million)
	}
	if err := b.run(*bin, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(bin, only string) (err error) {
	if b.only, err = regexp.Compile(only); err != nil {
		return err
	}
	if b.ours, err = filepath.Abs(filepath.Join(bin, "conntrack")); err != nil {
		return err
	}
	b.oursd = filepath.Join(filepath.Dir(b.ours), "conntrackd")
	for _, program := range []string{b.ours, b.debian, b.oursd, b.debiand} {
		if _, err := os.Stat(program); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "ctbox-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	restore, err := raiseTableLimit(max(b.flows, slices.Max(b.replicated)) + 100_000)
	if err != nil {
		return err
	}
	defer restore()

	fmt.Printf("%s, Linux %s, %d CPUs, %s; Debian's %s\n\n", cpuModel(), kernelRelease(), runtime.NumCPU(),
		runtime.Version(), debianVersion(b.debian))
	if err := b.conntrack(); err != nil {
		return err
	}
	return errors.Join(b.conntrackd(), b.versions(), b.nodes(), b.short(), b.hotStandby(), b.exports())
}

// wanted reports whether a row was selected.
func (b *bench) wanted(row string) bool { return b.only.MatchString(row) }

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernelRelease() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(release))
}
