package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"ctbox/applets"
	"ctbox/internal/netnstest"
)

// Started under the name ctbox, the test binary is main with applets of the
// test's own.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ctbox" {
		os.Exit(run(signalApplets))
	}
	netnstest.Main(m)
}

var signalApplets = []applets.Applet{
	{Name: "orderly", Run: func(ctx context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) int {
		fmt.Fprintln(stdout, "ready")
		<-ctx.Done()
		fmt.Fprintln(stdout, "footer")
		return 0
	}},
	{Name: "slow", Daemon: true, Run: func(ctx context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) int {
		fmt.Fprintln(stdout, "ready")
		<-ctx.Done()
		time.Sleep(grace + time.Second) // longer than a command has
		fmt.Fprintln(stdout, "footer")
		return 0
	}},
	{Name: "stuck", Run: func(_ context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) int {
		fmt.Fprintln(stdout, "ready")
		select {}
	}},
	{Name: "endless", Run: func(_ context.Context, _ []string, _ io.Reader, stdout, stderr io.Writer) int {
		for {
			if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
				fmt.Fprintln(stderr, err)
				return 1
			}
		}
	}},
}

func TestSignals(t *testing.T) {
	// Under nohup we ignore SIGHUP, and so would what we start. A signal that is
	// caught here is at its default there.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
	for _, c := range []struct {
		applet string
		signal syscall.Signal // 0: close the reading end of its output
		want   string         // as os.ProcessState says it
		stdout string
	}{
		{"orderly", syscall.SIGINT, "exit status 0", "footer\n"},
		{"orderly", syscall.SIGTERM, "exit status 0", "footer\n"},
		{"slow", syscall.SIGTERM, "exit status 0", "footer\n"},
		{"stuck", syscall.SIGINT, "signal: interrupt", ""},
		{"stuck", syscall.SIGTERM, "signal: terminated", ""},
		{"stuck", syscall.SIGHUP, "signal: hangup", ""},
		{"endless", 0, "signal: broken pipe", ""},
	} {
		t.Run(c.applet+" "+c.signal.String(), func(t *testing.T) {
			t.Parallel()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Args = []string{"ctbox", c.applet}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stdout)
			if line, err := lines.ReadString('\n'); line != "ready\n" {
				t.Fatalf("printed %q (%v)", line, err)
			}
			var rest []byte
			if c.signal == 0 {
				stdout.Close()
			} else {
				if err := cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
				if rest, err = io.ReadAll(lines); err != nil {
					t.Error(err)
				}
			}
			cmd.Wait()
			if got := cmd.ProcessState.String(); got != c.want || string(rest) != c.stdout || stderr.Len() > 0 {
				t.Errorf("ended with %q, stdout %q, stderr %q; want %q, %q and nothing", got, rest, &stderr, c.want, c.stdout)
			}
		})
	}
}

// moduleRoot is also the directory this test runs in.
func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// build makes ctbox with the Makefile of the tree at root and returns its path.
func build(t *testing.T, root string, env ...string) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", root, "BIN="+bin)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make in %s: %v\n%s", root, err, out)
	}
	return filepath.Join(bin, "ctbox")
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// modules are all that may be in the binary. One more is a decision, since it
// costs flash and trust: it belongs in the design before it is in this list.
var modules = []string{
	"github.com/mdlayher/netlink",
	"github.com/mdlayher/socket", // of netlink
	"github.com/urfave/cli/v2",
	"github.com/xrash/smetrics", // of urfave/cli
	"golang.org/x/net",          // of netlink
	"golang.org/x/sync",         // of netlink
	"golang.org/x/sys",
}

func TestBinaryHasOnlyItsModules(t *testing.T) {
	info, err := buildinfo.ReadFile(netnstest.Applet(t, "ctbox"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range info.Deps {
		if !slices.Contains(modules, dep.Path) {
			t.Errorf("module %s is in the binary", dep.Path)
		}
	}
}

// forbidden packages cost a flash chip hundreds of kilobytes and more, and are
// never needed by a netlink tool. internal/slog stands in for log/slog.
var forbidden = []string{
	"crypto/tls",
	"encoding/json",
	"encoding/xml",
	"html/template",
	"log/slog",
	"net/http",
	"regexp",
	"text/template",
}

func TestBinaryHasNoHeavyPackages(t *testing.T) {
	importers := make(map[string][]string)
	for line := range strings.Lines(output(t, "go", "list", "-deps", "-tags", "urfave_cli_no_docs",
		"-f", `{{.ImportPath}} {{join .Imports " "}}`, ".")) {
		fields := strings.Fields(line)
		for _, imported := range fields[1:] {
			importers[imported] = append(importers[imported], fields[0])
		}
	}
	for _, path := range forbidden {
		if by := importers[path]; by != nil {
			t.Errorf("%s is in the binary: imported by %s", path, strings.Join(by, ", "))
		}
	}
}

// maxSize is the room that a router's flash has for all applets together.
const maxSize = 5_000_000

func TestBinaryIsSmallAndStatic(t *testing.T) {
	root := moduleRoot(t)
	path := build(t, root, "GOOS=linux", "GOARCH=amd64")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ctbox for amd64 has %d bytes", len(data))
	if len(data) > maxSize {
		t.Errorf("ctbox has %d bytes, more than %d", len(data), maxSize)
	}
	if bytes.Contains(data, []byte(filepath.Join(root, "main.go"))) || bytes.Contains(data, []byte(filepath.Join(root, "applets"))) {
		t.Error("the binary names the folder it was built in")
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, prog := range file.Progs {
		if prog.Type == elf.PT_INTERP {
			t.Error("the binary wants a dynamic loader")
		}
	}
	// Every function's name is there, for stack traces. net brings its resolver with
	// whatever takes an address as text: net.Dial, net.Listen, net.ListenConfig.
	if bytes.Contains(data, []byte("net.(*Resolver).")) {
		t.Error("the binary has net's resolver, which is 190 kB")
	}
	if file.Section(".symtab") != nil || file.Section(".debug_info") != nil {
		t.Error("the binary is not stripped")
	}
}

// Two copies of the tree in folders of other names, the second with an empty
// build cache so that every package is compiled again.
func TestBuildIsReproducible(t *testing.T) {
	root := moduleRoot(t)
	var binaries [2][]byte
	for i, copied := range []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "another", "place")} {
		copyTree(t, root, copied)
		var env []string
		if i == 1 {
			env = append(env, "GOCACHE="+t.TempDir())
		}
		data, err := os.ReadFile(build(t, copied, env...))
		if err != nil {
			t.Fatal(err)
		}
		binaries[i] = data
	}
	if !bytes.Equal(binaries[0], binaries[1]) {
		t.Errorf("two builds of one tree differ (%d and %d bytes)", len(binaries[0]), len(binaries[1]))
	}
}

// notSource is what else lies in a work tree: git's own, and what was built.
var notSource = []string{".git", "bin", "dist", "__pycache__"}

// sources calls f for every file of the tree.
func sources(t *testing.T, root string, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case slices.Contains(notSource, entry.Name()):
			if entry.IsDir() {
				return filepath.SkipDir
			}
		case entry.Type().IsRegular():
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	sources(t, from, func(path string) {
		rel, err := filepath.Rel(from, path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, data, info.Mode()); err != nil {
			t.Fatal(err)
		}
	})
}

// machinePath is a path that exists on one machine only: a home, a checkout, a
// scratch folder that somebody worked in. Split, so as not to find itself.
var machinePath = regexp.MustCompile(`(^|[^\w.-])/(ro` + `ot|ho` + `me/\w+|wo` + `rk|tmp/w` + `t|Us` + `ers)/`)

func TestTreeNamesNoMachinePath(t *testing.T) {
	root := moduleRoot(t)
	sources(t, root, func(path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(data) {
			return
		}
		for i, line := range bytes.Split(data, []byte("\n")) {
			if machinePath.Match(line) {
				t.Errorf("%s:%d: %s", strings.TrimPrefix(path, root+"/"), i+1, line)
			}
		}
	})
}

func TestShellScriptsParse(t *testing.T) {
	sources(t, moduleRoot(t), func(path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(data), "\n")
		shell, ok := map[string]string{"#!/bin/sh": "sh", "#!/bin/bash": "bash", "#!/usr/bin/env bash": "bash"}[line]
		if !ok {
			return
		}
		if out, err := exec.CommandContext(t.Context(), shell, "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v: %s", shell, err, out)
		}
	})
}

func TestMakeMakesALinkForEveryApplet(t *testing.T) {
	dir := netnstest.BinDir(t)
	for _, a := range applets.Linked(applets.All()) {
		if got, err := os.Readlink(filepath.Join(dir, a.Name)); err != nil || got != "ctbox" {
			t.Errorf("%s leads to %q (%v), want ctbox", a.Name, got, err)
		}
	}
}

func TestInstallTarget(t *testing.T) {
	root, dest := moduleRoot(t), t.TempDir()
	install := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", root,
			"BIN="+netnstest.BinDir(t), "DESTDIR="+dest, "PREFIX=/usr", "install")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for range 2 {
		if out, err := install(); err != nil {
			t.Fatalf("make install: %v\n%s", err, out)
		}
	}
	for _, file := range []string{"bash-completion/completions/conntrack", "zsh/site-functions/_conntrack",
		"fish/vendor_completions.d/conntrack.fish"} {
		if _, err := os.Stat(filepath.Join(dest, "usr", "share", file)); err != nil {
			t.Error(err)
		}
	}
	sbin := filepath.Join(dest, "usr", "sbin")
	if got := output(t, filepath.Join(sbin, "ctbox"), "--version"); !strings.HasPrefix(got, "ctbox v") {
		t.Errorf("the installed binary says %q", got)
	}
	for _, a := range applets.Linked(applets.All()) {
		path := filepath.Join(sbin, a.Name)
		if got, err := os.Readlink(path); err != nil || got != "ctbox" {
			t.Errorf("%s leads to %q (%v), want ctbox", a.Name, got, err)
		}
		// A program of somebody else's in the place of a link.
		os.Remove(path)
		if err := os.WriteFile(path, []byte("theirs"), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := install(); err == nil || !strings.Contains(out, path) {
			t.Errorf("make install over a foreign %s: %v: %s", a.Name, err, out)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "theirs" {
			t.Errorf("a foreign %s was overwritten (%v)", a.Name, err)
		}
		os.Remove(path)
	}
}

func TestListNamesWhatRuns(t *testing.T) {
	ctbox := netnstest.Applet(t, "ctbox")
	if err := exec.CommandContext(context.Background(), ctbox, "nosuchapplet").Run(); err == nil {
		t.Error("an unknown applet ran")
	}
	for name := range strings.Lines(output(t, ctbox, "--list")) {
		netnstest.Applet(t, strings.TrimSpace(name))
	}
}
