package conntrack

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestBashCompletion has bash complete the last word of command lines.
func TestBashCompletion(t *testing.T) {
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
		run.Args = append(append(run.Args, completionScripts+"conntrack.bash"), words...)
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
