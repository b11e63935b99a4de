package conntrackd

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ctbox/applets/conntrackd/control"
	"ctbox/internal/gen"
)

// TestGenerated checks that the list of options that conntrack-tools lacks matches the tables.
func TestGenerated(t *testing.T) {
	ours := append(slices.Sorted(maps.Keys(ourOptions)), control.Conditions()...)
	for _, letter := range slices.Sorted(maps.Keys(options)) {
		for _, w := range options[letter].words {
			if w.ours {
				ours = append(ours, "-"+string(letter)+" "+w.text)
			}
		}
	}
	gen.Section(t, "../../docs/differences.md", "our conntrackd options", "* Options of conntrackd: "+gen.Names(ours)+".\n")
}

// The shells complete every option and keyword: bash is run; the scripts of the others must
// contain them.
func TestCompletion(t *testing.T) {
	dir := filepath.Join("..", "..", "scripts", "completion")
	complete := func(words ...string) []string {
		script := `. ` + filepath.Join(dir, "conntrackd.bash") + `; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _conntrackd; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", append([]string{"-c", script, "bash", "conntrackd"}, words...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(slices.Values(strings.Fields(string(out))))
	}
	want := append(append(slices.Collect(maps.Keys(ourOptions)), control.Conditions()...), "-d", "-C", "-x", "-v", "-h") // requests follow
	for letter := range options {
		want = append(want, "-"+string(letter))
	}
	slices.Sort(want)
	if got := complete(""); !slices.Equal(got, want) {
		t.Errorf("offered %q, want %q", got, want)
	}
	for _, name := range []string{"_conntrackd", "conntrackd.fish"} {
		script, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range want {
			for _, spelled := range []string{"'" + o + "[", " -o " + o[1:] + " ", " -l " + strings.TrimPrefix(o, "--") + " "} {
				if strings.Contains(string(script), spelled) {
					o = ""
					break
				}
			}
			if o != "" {
				t.Errorf("%s does not name %s", name, o)
			}
		}
		for letter, o := range options {
			for _, w := range o.words {
				if w.note == "" && !strings.Contains(string(script), w.text) {
					t.Errorf("%s does not name %s of -%c", name, w.text, letter)
				}
			}
		}
	}
	for letter, o := range options {
		var words []string
		for _, w := range o.words {
			if w.note == "" { // others are old names
				words = append(words, w.text)
			}
		}
		slices.Sort(words)
		if len(words) == 0 {
			words = want
		}
		if got := complete("-"+string(letter), ""); !slices.Equal(got, words) {
			t.Errorf("-%c: offered %q, want %q", letter, got, words)
		}
	}
}
