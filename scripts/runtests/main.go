// Runtests compiles tests on all CPUs, runs `go test` with its arguments and reports progress:
// a line for each package that has ended, and at least every ten seconds a line that names the
// running test. It shows the output of failed tests only. A skipped test is a failure.
//
// The exit status is 0 if every test has run and passed, otherwise 1.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// every is the longest time without output.
const every = 10 * time.Second

func main() {
	r := &run{out: os.Stdout, began: time.Now(), packages: map[string]*packageRun{}}
	if err := r.tests(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
		os.Exit(1)
	}
}

// event is a line of `go test -json` (go doc test2json, and go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

// run is a run of go test.
type run struct {
	out   io.Writer
	began time.Time

	mu       sync.Mutex
	packages map[string]*packageRun
	printed  time.Time
	passed   int
	bad      []string // what has failed or was skipped
}

// packageRun is a package whose tests are running.
type packageRun struct {
	began   time.Time
	running []string            // its tests at work, in the order of their beginning
	output  map[string][]string // of each test; "" is the package's own
}

func (r *run) tests(args []string) error {
	done := make(chan struct{})
	go r.beat(done)
	defer close(done)
	// With -p 1, which keeps packages from running side by side, go test would also
	// compile one at a time. What does not compile is said by go test.
	build := exec.Command("go", append([]string{"list", "-export", "-test", "-e"}, buildArguments(args)...)...)
	_ = build.Run()
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(pipe)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err != nil {
			break
		}
	}
	return r.end(cmd.Wait())
}

// buildArguments returns the arguments of go test that affect the build.
func buildArguments(args []string) (build []string) {
	for i, arg := range args {
		if arg == "-race" || strings.HasPrefix(arg, "-tags") || i > 0 && args[i-1] == "-tags" ||
			arg[0] != '-' && strings.Contains(arg, "/") && (i == 0 || args[i-1] != "-skip" && args[i-1] != "-run") {
			build = append(build, arg)
		}
	}
	return build
}

// end prints the result of the run.
func (r *run) end(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say("%d tests passed in %v", r.passed, time.Since(r.began).Round(time.Second))
	if len(r.bad) > 0 {
		return fmt.Errorf("not passed: %s", strings.Join(r.bad, ", "))
	}
	return err
}

// beat names the running tests if nothing else was printed for a while.
func (r *run) beat(done chan struct{}) {
	tick := time.NewTicker(every / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		if time.Since(r.printed) >= every*3/4 {
			r.say("  … %s", r.atWork())
		}
		r.mu.Unlock()
	}
}

// atWork names the package that has run for the longest, and its newest tests.
func (r *run) atWork() string {
	name := ""
	for candidate, p := range r.packages {
		if name == "" || cmp.Or(p.began.Compare(r.packages[name].began), strings.Compare(candidate, name)) < 0 {
			name = candidate
		}
	}
	if name == "" {
		return "go builds the tests"
	}
	p := r.packages[name]
	text := fmt.Sprintf("%s (%v)", name, time.Since(p.began).Round(time.Second))
	if n := len(p.running); n > 0 {
		text += ": " + strings.Join(p.running[max(0, n-3):], ", ")
	}
	return text
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.out, format+"\n", args...)
	r.printed = time.Now()
}

// line processes a line of go test's output.
func (r *run) line(line []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		r.say("%s", strings.TrimRight(string(line), "\n"))
		return
	}
	switch e.Action {
	case "build-output":
		r.say("%s", strings.TrimRight(e.Output, "\n"))
		return
	case "build-fail":
		r.bad = append(r.bad, e.ImportPath)
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &packageRun{began: time.Now(), output: map[string][]string{}}
		r.packages[e.Package] = p
	}
	switch e.Action {
	case "run", "cont":
		p.running = append(p.running, e.Test)
	case "pause":
		p.stopped(e.Test)
	case "output":
		p.output[e.Test] = append(p.output[e.Test], e.Output)
	case "pass", "fail", "skip":
		r.ended(p, &e)
	}
}

func (p *packageRun) stopped(test string) {
	p.running = slices.DeleteFunc(p.running, func(name string) bool { return name == test })
}

// ended processes the end of a test or of a package.
func (r *run) ended(p *packageRun, e *event) {
	switch {
	case e.Test != "":
		p.stopped(e.Test)
		if e.Action == "pass" {
			r.passed++
			delete(p.output, e.Test)
			return
		}
		r.bad = append(r.bad, e.Package+" "+e.Test)
		r.say("%s %s %s (%.1f s)\n%s", strings.ToUpper(e.Action), e.Package, e.Test, e.Elapsed, strings.Join(p.output[e.Test], ""))
		delete(p.output, e.Test)
		return
	case e.Action == "fail":
		// Output that belongs to no test: a panic, TestMain, or tests that did not end.
		r.bad = append(r.bad, e.Package)
		r.say("FAIL %s (%.1f s)\n%s", e.Package, e.Elapsed, strings.Join(p.output[""], ""))
		for _, test := range p.running {
			r.say("not ended: %s\n%s", test, strings.Join(p.output[test], ""))
		}
	case e.Action == "pass":
		r.say("ok   %s (%.1f s)", e.Package, e.Elapsed)
	}
	delete(r.packages, e.Package)
}
