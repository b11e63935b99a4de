package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// fed returns the output of a run for these lines of go test, and its error.
func fed(t *testing.T, lines string) (string, *run) {
	t.Helper()
	var out strings.Builder
	r := &run{out: &out, began: time.Now(), packages: map[string]*packageRun{}}
	for line := range strings.Lines(lines) {
		r.line([]byte(line))
	}
	return out.String(), r
}

func TestPasses(t *testing.T) {
	out, r := fed(t, `{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"quiet\n"}
{"Action":"pass","Package":"a","Test":"TestOne","Elapsed":1}
{"Action":"pass","Package":"a","Elapsed":1.25}
`)
	if out != "ok   a (1.2 s)\n" || r.end(nil) != nil {
		t.Errorf("printed %q, %v", out, r.bad)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct{ name, lines, shows, names string }{
		{"a test", `{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"why\n"}
{"Action":"fail","Package":"a","Test":"TestOne","Elapsed":1}
{"Action":"fail","Package":"a","Elapsed":1}`, "why\n", "a TestOne"},
		{"a skipped test", `{"Action":"output","Package":"a","Test":"TestOne","Output":"no root\n"}
{"Action":"skip","Package":"a","Test":"TestOne"}
{"Action":"pass","Package":"a"}`, "no root\n", "a TestOne"},
		{"a panic", `{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"on the way\n"}
{"Action":"output","Package":"a","Output":"panic: x\n"}
{"Action":"fail","Package":"a"}`, "not ended: TestOne\non the way\n", "a"},
		{"a build", `{"ImportPath":"b [b.test]","Action":"build-output","Output":"b.go:1: undefined\n"}
{"ImportPath":"b [b.test]","Action":"build-fail"}`, "b.go:1: undefined\n", "b [b.test]"},
		{"what is no JSON", "go: no such tool\n", "go: no such tool\n", ""},
	} {
		out, r := fed(t, c.lines)
		err := r.end(errors.New("exit status 1"))
		if !strings.Contains(out, c.shows) || err == nil || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: printed %q, error %v", c.name, out, err)
		}
	}
}

// A package without tests does not count as a skipped test.
func TestPackageWithoutTests(t *testing.T) {
	out, r := fed(t, `{"Action":"start","Package":"a"}
{"Action":"output","Package":"a","Output":"?   \ta\t[no test files]\n"}
{"Action":"skip","Package":"a","Elapsed":0}
`)
	if err := r.end(nil); out != "" || err != nil {
		t.Errorf("printed %q, %v", out, err)
	}
}

func TestBuildArguments(t *testing.T) {
	got := buildArguments(strings.Fields("-count=1 -p 1 -race -tags a,b -skip /Debian|//IPv6 -timeout 20m ./sync/interop ctbox/nl"))
	if want := "-race -tags a,b ./sync/interop ctbox/nl"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %s", got, want)
	}
}

func TestAtWork(t *testing.T) {
	_, r := fed(t, "")
	if got := r.atWork(); got != "go builds the tests" {
		t.Errorf("before the first test: %q", got)
	}
	_, r = fed(t, `{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"run","Package":"a","Test":"TestTwo"}
{"Action":"pause","Package":"a","Test":"TestOne"}
`)
	if got := r.atWork(); got != "a (0s): TestTwo" {
		t.Errorf("at work: %q", got)
	}
}
