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

	"golang.org/x/sys/unix"
)

// Started under the name ctbox, the test binary runs main with applets for the tests.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ctbox" {
		os.Exit(run(signalApplets))
	}
	netnstest.Main(m)
}

var signalApplets = []applets.Applet{
	{Name: "orderly", Run: func(ctx context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) int {
		stopped := ctx.Done()
		if kept := ctx; kept != ctx { // an event stream keeps its context so; it panicked
			return 1
		}
		fmt.Fprintln(stdout, "ready")
		<-stopped
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
	{Name: "stuck", Run: func(ctx context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) int {
		if ctx.Err() != nil {
			return 1
		}
		fmt.Fprintln(stdout, "ready")
		select {}
	}},
	{Name: "simple", Run: func(_ context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) int {
		fmt.Fprintln(stdout, "ready")
		for { // in the kernel, as one that reads a table: the runtime sees no deadlock
			syscall.Pause()
		}
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
	// Under nohup this process ignores SIGHUP, and its children would inherit that. They
	// start with the default for signals that are caught here.
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
		{"simple", syscall.SIGINT, "signal: interrupt", ""},
		{"simple", syscall.SIGTERM, "signal: terminated", ""},
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

// documentedModules are the modules that have a row in docs/dependencies.md.
func documentedModules(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(line, "|")
		if len(cells) == 6 && strings.Contains(cells[1], "/") {
			names = append(names, strings.TrimSpace(cells[1]))
			if strings.TrimSpace(cells[2]) == "" || strings.TrimSpace(cells[3]) == "" {
				t.Errorf("docs/dependencies.md does not say what %s serves and costs", names[len(names)-1])
			}
		}
	}
	return names
}

// A module costs flash and trust: each one has a row that gives the reason.
func TestEveryModuleIsDocumented(t *testing.T) {
	documented := documentedModules(t)
	var required []string
	for line := range strings.Lines(output(t, "go", "list", "-m", "-f", "{{if not .Main}}{{.Path}}{{end}}", "all")) {
		required = append(required, strings.TrimSpace(line))
	}
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^(?:require)?\s+(\S+/\S+) v`).FindAllStringSubmatch(string(data), -1) {
		if !slices.Contains(documented, line[1]) {
			t.Errorf("%s has no row in docs/dependencies.md", line[1])
		}
	}
	for _, name := range documented {
		if !slices.Contains(required, name) {
			t.Errorf("docs/dependencies.md has %s, which go.mod does not need", name)
		}
	}
	info, err := buildinfo.ReadFile(netnstest.Applet(t, "ctbox"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range info.Deps {
		if !slices.Contains(documented, dep.Path) {
			t.Errorf("module %s is in the binary and has no row in docs/dependencies.md", dep.Path)
		}
	}
}

// forbidden are packages that neither a netlink tool nor its modules need. docs/size.md has
// the size of each.
var forbidden = []string{
	"crypto/tls",
	"encoding/xml",
	"html/template",
	"net/http",
}

// forbiddenWithoutBox are those that only urfave/cli brings.
var forbiddenWithoutBox = append([]string{
	"flag",
	"github.com/urfave/cli/v2",
	"regexp",
	"text/template",
}, forbidden...)

func TestBinaryHasNoHeavyPackages(t *testing.T) {
	for tags, absent := range map[string][]string{
		"urfave_cli_no_docs":        forbidden,
		"urfave_cli_no_docs,no_box": forbiddenWithoutBox,
	} {
		importers := make(map[string][]string)
		for line := range strings.Lines(output(t, "go", "list", "-deps", "-tags", tags,
			"-f", `{{.ImportPath}} {{join .Imports " "}}`, ".")) {
			fields := strings.Fields(line)
			for _, imported := range fields[1:] {
				importers[imported] = append(importers[imported], fields[0])
			}
		}
		for _, path := range absent {
			if by := importers[path]; by != nil {
				t.Errorf("%s is in the binary with tags %s: imported by %s", path, tags, strings.Join(by, ", "))
			}
		}
	}
}

// The flash budget: raw bytes, and bytes compressed by xz with its filter for x86 code, as in
// images for routers.
const (
	maxSize          = 8_500_000
	maxPacked        = 2_700_000
	maxMinimalSize   = 3_000_000
	maxMinimalPacked = 1_000_000
)

// wantSize checks that a binary is within its budget.
func wantSize(t *testing.T, path string, most, mostPacked int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	packed := len(output(t, "xz", "--x86", "--lzma2=preset=9", "-c", path))
	t.Logf("%d bytes, %d as xz", info.Size(), packed)
	if info.Size() > int64(most) || packed > mostPacked {
		t.Errorf("%d bytes, %d as xz: more than %d or %d", info.Size(), packed, most, mostPacked)
	}
}

func TestBinaryIsSmallAndStatic(t *testing.T) {
	root := moduleRoot(t)
	path := build(t, root, "GOOS=linux", "GOARCH=amd64")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantSize(t, path, maxSize, maxPacked)
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
	if file.Section(".symtab") != nil || file.Section(".debug_info") != nil {
		t.Error("the binary is not stripped")
	}
}

// notSource are other things in a work tree: git's files, and build results.
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

// machinePath matches a path that exists on one machine only: a home, a checkout, a scratch
// folder. It is split so as not to match itself.
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
		// Another program in the place of a link.
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

// The image's file has CAP_NET_ADMIN without the flag that makes it effective: any user
// may run all commands with it, and the program starts where the capability cannot be had.
func TestFileCapability(t *testing.T) {
	program, err := os.ReadFile(netnstest.Applet(t, "ctbox"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for path := dir; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil { // for the other user
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "ctbox")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	// A struct vfs_cap_data of revision 2: permitted CAP_NET_ADMIN (12), not effective.
	netAdmin := []byte{3: 2, 5: 1 << (unix.CAP_NET_ADMIN - 8), 19: 0}
	if err := unix.Setxattr(path, "security.capability", netAdmin, 0); err != nil {
		t.Fatal(err)
	}
	ns := netnstest.New(t, "capability")
	user := []string{"--reuid", "65534", "--regid", "65534", "--clear-groups"}
	const sorry = "sorry, you must be root or get CAP_NET_ADMIN capability to do this"
	for _, c := range []struct {
		setpriv []string
		args    string
		code    int
		stdout  string
		stderr  string
	}{
		{user, "conntrack -C", 0, "0\n", ""},
		{user, "nfct list timeout", 0, "", ""},
		// no_new_privs, after the capability was lost: a program without it was started in between
		{append(slices.Clone(user), "setpriv", "--no-new-privs"), "conntrack -C", 1, "", sorry},
		{append([]string{"--bounding-set", "-net_admin"}, user...), "conntrack -C", 1, "", sorry},
		{append([]string{"--bounding-set", "-net_admin"}, user...), "--version", 0, "ctbox v", ""},
		{[]string{"--bounding-set", "-net_admin", "--inh-caps", "-net_admin"}, "--version", 0, "ctbox v", ""},
	} {
		r := ns.Run("", "setpriv", slices.Concat(c.setpriv, []string{path}, strings.Fields(c.args))...)
		if r.Code != c.code || !strings.HasPrefix(r.Stdout, c.stdout) || !strings.Contains(r.Stderr, c.stderr) {
			t.Errorf("setpriv %q ctbox %s: %+v", c.setpriv, c.args, r)
		}
	}
}
