package conntrack

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the completion scripts in scripts/completion and the golden files in testdata")

// golden compares got with the file at path, or rewrites it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the tables give; go test -update rewrites it (-file +tables):\n%s", path, diff)
	}
}

// TestGenerated: what is packaged says what the tables say.
func TestGenerated(t *testing.T) {
	scripts := filepath.Join("..", "..", "scripts", "completion")
	golden(t, filepath.Join(scripts, "conntrack.bash"), AppendCompletion(nil, Bash))
	golden(t, filepath.Join(scripts, "_conntrack"), AppendCompletion(nil, Zsh))
	golden(t, filepath.Join(scripts, "conntrack.fish"), AppendCompletion(nil, Fish))
	if len(AppendCompletion(nil, "csh")) != 0 {
		t.Error("completion for a shell that there is none for")
	}
}

// TestBashCompletion has bash complete the last word of command lines.
func TestBashCompletion(t *testing.T) {
	script := filepath.Join(t.TempDir(), "conntrack.bash")
	if err := os.WriteFile(script, AppendCompletion(nil, Bash), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		with []string // all of these are offered
		not  []string // none of these is
	}{
		{"-", []string{"-L", "--dump", "-R"}, []string{"-s"}},
		{"-L ", []string{"conntrack", "expect", "dying", "unconfirmed"}, []string{"-s"}},
		{"-L --", []string{"--orig-src", "--zero", "--labelmap"}, []string{"--timeout", "--tuple-src", "--sport", "--nat-range"}},
		{"-L expect --", []string{"--family", "--output"}, []string{"--orig-src"}},
		{"-I -p tcp --", []string{"--timeout", "--sport", "--state"}, []string{"--zero", "--srckey"}},
		{"-L -p ", []string{"tcp", "icmpv6"}, nil},
		{"-L -p gre --s", []string{"--srckey", "--src"}, []string{"--sport"}},
		{"-L -o x", []string{"xml"}, []string{"json"}},
		{"-L -o id,", []string{"id,json", "id,xml"}, []string{"json"}},
		{"-L -u ASSURED,U", []string{"ASSURED,UNSET", "ASSURED,UNREPLIED"}, nil},
		{"-L -f ", []string{"ipv4", "ipv6"}, nil},
		{"-L -s ", nil, []string{"-s", "conntrack"}},
	} {
		words := strings.Split("conntrack "+c.line, " ")
		run := exec.Command("bash", "-c",
			`source "$1" && shift && COMP_WORDS=("$@") COMP_CWORD=$(($#-1)) && _conntrack; printf '%s\n' "${COMPREPLY[@]}"`,
			"bash")
		run.Args = append(append(run.Args, script), words...)
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.line, err, out)
		}
		got := strings.Fields(string(out))
		for _, w := range c.with {
			if !slices.Contains(got, w) {
				t.Errorf("%q: %q lacks %s", c.line, got, w)
			}
		}
		for _, w := range c.not {
			if slices.Contains(got, w) {
				t.Errorf("%q: %q has %s", c.line, got, w)
			}
		}
	}
}
