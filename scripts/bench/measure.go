package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cost is what one run took.
type cost struct {
	wall time.Duration
	cpu  time.Duration // user and system
	rss  int64         // KiB, largest resident set
}

// timed runs a command with its output thrown away.
func timed(cmd *exec.Cmd) (cost, error) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return cost{}, err
	}
	defer null.Close()
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = null, &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return costOf(cmd, time.Since(start)), nil
}

func costOf(cmd *exec.Cmd, wall time.Duration) cost {
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return cost{wall: wall, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rss: usage.Maxrss}
}

// median is the median of each figure by itself.
func median(costs []cost) cost {
	mid := func(key func(cost) int64) int64 {
		var v []int64
		for _, c := range costs {
			v = append(v, key(c))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return cost{
		wall: time.Duration(mid(func(c cost) int64 { return int64(c.wall) })),
		cpu:  time.Duration(mid(func(c cost) int64 { return int64(c.cpu) })),
		rss:  mid(func(c cost) int64 { return c.rss }),
	}
}

// contestants are measured in turn, so that what else the machine does hits all
// alike. kernel may be nil.
type contestants struct {
	debian, ours, kernel func() (cost, error)
}

// compare prints one row of a table.
func (b *bench) compare(row string, c contestants) error {
	if !b.wanted(row) {
		return nil
	}
	all := []func() (cost, error){c.debian, c.ours, c.kernel}
	costs := make([][]cost, len(all))
	for range b.runs {
		for i, run := range all {
			if run == nil {
				continue
			}
			one, err := run()
			if err != nil {
				return fmt.Errorf("%s: %w", row, err)
			}
			costs[i] = append(costs[i], one)
		}
	}
	debian, ours := median(costs[0]), median(costs[1])
	kernel, overKernel := "–", "–"
	if c.kernel != nil {
		k := median(costs[2])
		kernel = seconds(k.wall)
		overKernel = fmt.Sprintf("%.2f", ours.wall.Seconds()/k.wall.Seconds())
	}
	fmt.Printf("| %s | %s | %s | **%.2f** | %s | %s | %s | %s | %.1f | %.1f |\n", row,
		seconds(debian.wall), seconds(ours.wall), ours.wall.Seconds()/debian.wall.Seconds(), kernel, overKernel,
		seconds(debian.cpu), seconds(ours.cpu), float64(debian.rss)/1024, float64(ours.rss)/1024)
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
