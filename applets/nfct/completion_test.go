package nfct

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"ctbox/helpers/builtin"
	"ctbox/internal/gen"
)

// offered are the words that the shells complete, from the tables.
func offered() map[string][]string {
	words := map[string][]string{
		"commands": commands, "subsystems": subsystems,
		"families":         slices.Sorted(maps.Keys(families)),
		"helper protocols": slices.Sorted(maps.Keys(helperProtocols)),
	}
	for _, h := range builtin.All() {
		words["helpers"] = append(words["helpers"], h.Name)
	}
	byNumber := make(map[uint8]string) // the shortest of a protocol's names in lower case
	for name, number := range trackedNames {
		if best := byNumber[number]; name == strings.ToLower(name) && (best == "" || len(name) < len(best)) {
			byNumber[number] = name
		}
	}
	words["protocols"] = slices.Sorted(maps.Values(byNumber))
	return words
}

const scripts = "../../scripts/completion/"

func TestGeneratedCompletion(t *testing.T) {
	var pairs []string
	for name, words := range offered() {
		pairs = append(pairs, "{"+name+"}", strings.Join(words, " "))
	}
	fill := strings.NewReplacer(pairs...)
	for file, template := range map[string]string{"nfct.bash": bashTemplate, "_nfct": zshTemplate, "nfct.fish": fishTemplate} {
		gen.File(t, scripts+file, []byte(fill.Replace(template)))
	}
}

const bashTemplate = `# bash completion for nfct(8): COMMAND timeout|helper NAME FAMILY PROTOCOL ...
_nfct() {
    local cur=${COMP_WORDS[COMP_CWORD]} words= first=4 # where FAMILY stands
    case ${COMP_WORDS[1]} in default-*) first=3 ;; esac
    COMPREPLY=()
    case $COMP_CWORD in
    1) words='{commands}' ;;
    2) words='{subsystems}' ;;
    3) [[ ${COMP_WORDS[2]} == helper ]] && words='{helpers}' ;;
    esac
    case $((COMP_CWORD - first)) in
    0) words='{families}' ;;
    1)
        words='{helper protocols}'
        [[ ${COMP_WORDS[2]} == timeout ]] && words='{protocols}'
        ;;
    esac
    case ${COMP_WORDS[COMP_CWORD-1]} in
    -o) words=json ;;
    --netns) words=$(ls /run/netns 2>/dev/null) ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _nfct nfct
`

const zshTemplate = `#compdef nfct
# zsh completion for nfct(8): COMMAND timeout|helper NAME FAMILY PROTOCOL ...
local -a names protocols
names=() protocols=({helper protocols})
case $words[3] in
  helper) names=({helpers}) ;;
  timeout) protocols=({protocols}) ;;
esac
local -i family=5
[[ $words[2] == default-* ]] && family=4
[[ $words[CURRENT-1] == --netns ]] && { compadd -- ${(f)"$(ls /run/netns 2>/dev/null)"}; return }
case $CURRENT in
  2) compadd {commands} ;;
  3) compadd {subsystems} ;;
  $family) compadd {families} ;;
  $((family + 1))) compadd -a protocols ;;
  4) compadd -a names ;;
esac
`

const fishTemplate = `# fish completion for nfct(8): COMMAND timeout|helper NAME FAMILY PROTOCOL ...
complete -c nfct -f
function __nfct_at
    test (count (commandline -opc)) -eq $argv[1]
end
function __nfct_word
    set -l words (commandline -opc)
    test (count $words) -ge $argv[1]; and string match -q -- $argv[2] $words[$argv[1]]
end
complete -c nfct -n '__nfct_at 1' -a '{commands}'
complete -c nfct -n '__nfct_at 2' -a '{subsystems}'
complete -c nfct -n '__nfct_at 3; and __nfct_word 3 helper' -a '{helpers}'
complete -c nfct -n '__nfct_at 3; and __nfct_word 2 "default-*"' -a '{families}'
complete -c nfct -n '__nfct_at 4; and not __nfct_word 2 "default-*"' -a '{families}'
complete -c nfct -n '__nfct_at 4; and __nfct_word 2 "default-*"' -a '{protocols}'
complete -c nfct -n '__nfct_at 5; and __nfct_word 3 timeout' -a '{protocols}'
complete -c nfct -n '__nfct_at 5; and __nfct_word 3 helper' -a '{helper protocols}'
complete -c nfct -s o -x -a json -d 'list and get as JSON'
complete -c nfct -l netns -x -a '(ls /run/netns 2>/dev/null)' -d 'work in this network namespace'
`

// Bash completes the words that the command line takes at each place.
func TestBashCompletion(t *testing.T) {
	complete := func(words ...string) []string {
		script := `. ` + scripts + `nfct.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nfct; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", append([]string{"-c", script, "bash", "nfct"}, words...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(slices.Values(strings.Fields(string(out))))
	}
	words := offered()
	for _, c := range []struct {
		line string // up to the word that is to be completed
		want []string
	}{
		{" ", commands},
		{"l", []string{"list"}},
		{"list ", subsystems},
		{"add helper ", words["helpers"]},
		{"add timeout ", nil},
		{"add helper ftp ", []string{"inet", "inet6"}},
		{"add helper ftp inet ", []string{"tcp", "udp"}},
		{"add timeout name inet ", words["protocols"]},
		{"default-set timeout ", []string{"inet", "inet6"}},
		{"default-get timeout inet ", words["protocols"]},
		{"list timeout -o ", []string{"json"}},
	} {
		want := slices.Sorted(slices.Values(c.want))
		if got := complete(strings.Split(strings.TrimPrefix(c.line, " "), " ")...); !slices.Equal(got, want) {
			t.Errorf("%q: offered %q, want %q", c.line, got, want)
		}
	}
	if want := []string{"dccp", "generic", "gre", "icmp", "icmpv6", "sctp", "tcp", "udp", "udplite"}; !slices.Equal(words["protocols"], want) {
		t.Errorf("protocols %q, want %q", words["protocols"], want)
	}
}
