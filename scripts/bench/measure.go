package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cost is the cost of one run.
type cost struct {
	wall time.Duration
	cpu  time.Duration // user and system
	rss  int64         // KiB, largest resident set; 0 where it was not seen
}

// timed runs a command and discards its output.
func timed(cmd *exec.Cmd) (cost, error) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return cost{}, err
	}
	defer null.Close()
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = null, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return cost{}, err
	}
	peak := watchPeak(cmd.Process.Pid)
	err = cmd.Wait()
	wall := time.Since(start)
	rss := peak()
	if err != nil {
		return cost{}, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[2:], " "), err, strings.TrimSpace(stderr.String()))
	}
	return cost{wall: wall, cpu: cpu(cmd), rss: rss}, nil
}

func cpu(cmd *exec.Cmd) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// cpuUsed returns the CPU time that this process or thread has used, depending on who
// (RUSAGE_SELF, RUSAGE_THREAD).
func cpuUsed(who int) (time.Duration, error) {
	var u unix.Rusage
	err := unix.Getrusage(who, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// watchPeak follows the largest resident set of a process until the returned function is called.
// wait4(2) cannot be used: its figure includes this process's memory at the time of the fork.
func watchPeak(pid int) func() int64 {
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		path := fmt.Sprintf("/proc/%d/status", pid)
		var last int64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				peak <- last
				return
			case <-tick.C:
			}
			if now := highWater(path); now > 0 {
				last = now
			}
		}
	}()
	return func() int64 { close(stop); return <-peak }
}

// highWater reads VmHWM, in KiB, from a process's status.
func highWater(path string) int64 {
	status, _ := os.ReadFile(path)
	_, rest, found := bytes.Cut(status, []byte("VmHWM:"))
	if !found {
		return 0
	}
	n, _ := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	return n
}

// median returns the median of each figure separately.
func median(costs []cost) cost {
	return cost{
		wall: time.Duration(middle(costs, func(c cost) int64 { return int64(c.wall) })),
		cpu:  time.Duration(middle(costs, func(c cost) int64 { return int64(c.cpu) })),
		rss:  middle(costs, func(c cost) int64 { return c.rss }),
	}
}

func middle[T any](runs []T, key func(T) int64) int64 {
	var v []int64
	for _, c := range runs {
		v = append(v, key(c))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// contestants are measured alternately, so that other load of the machine affects all of them.
// debian and kernel may be nil.
type contestants struct {
	debian, ours, kernel func() (cost, error)
}

// attempts is the number of tries for Debian's program, whose -U runs out of socket buffer.
const attempts = 3

const tableHead = `| work | Debian | ctbox | **ratio** | kernel alone | over kernel | CPU: Debian | ctbox | kernel | MiB: Debian | ctbox |
|---|---|---|---|---|---|---|---|---|---|---|`

// compare prints one row of a table: medians, and the ratios of the medians.
func (b *bench) compare(row string, c contestants) error {
	if !b.wanted(row) {
		return nil
	}
	var debian, ours, kernel []cost
	var gaveUp error
	for range b.runs {
		if c.debian != nil && gaveUp == nil {
			one, err := persistent(c.debian)
			if err != nil {
				gaveUp = err
			} else {
				debian = append(debian, one)
			}
		}
		one, err := c.ours()
		if err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
		ours = append(ours, one)
		if c.kernel == nil {
			continue
		}
		if one, err = c.kernel(); err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
		kernel = append(kernel, one)
	}
	if gaveUp != nil {
		debian = nil
	}
	o := median(ours)
	cells := []string{row, "–", seconds(o.wall), "–", "–", "–", "–", seconds(o.cpu), "–", "–", mebibytes(o.rss)}
	if debian != nil {
		d := median(debian)
		cells[1], cells[3] = seconds(d.wall), fmt.Sprintf("**%.2f**", o.wall.Seconds()/d.wall.Seconds())
		cells[6], cells[9] = seconds(d.cpu), mebibytes(d.rss)
	}
	if kernel != nil {
		k := median(kernel)
		cells[4], cells[5] = seconds(k.wall), fmt.Sprintf("%.2f", o.wall.Seconds()/k.wall.Seconds())
		cells[8] = seconds(k.cpu)
	}
	fmt.Printf("| %s |\n", strings.Join(cells, " | "))
	if gaveUp != nil {
		fmt.Fprintf(os.Stderr, "bench: Debian failed %d times: %v\n", attempts, gaveUp)
	}
	return nil
}

// persistent repeats a contestant that fails.
func persistent(run func() (cost, error)) (c cost, err error) {
	for range attempts {
		if c, err = run(); err == nil {
			return c, nil
		}
	}
	return c, err
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func mebibytes(kib int64) string {
	if kib == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", float64(kib)/1024)
}
