package conntrack

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/gen"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

const completionScripts = "../../scripts/completion/"

// The shells' completions, the man page's lists and the list of what conntrack-tools
// lacks are what the tables of options give.
func TestGenerated(t *testing.T) {
	gen.File(t, completionScripts+"conntrack.bash", appendBash(nil))
	gen.File(t, completionScripts+"_conntrack", appendZsh(nil))
	gen.File(t, completionScripts+"conntrack.fish", appendFish(nil))

	path := filepath.Join("..", "..", "docs", "man", "conntrack.8")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	from, to := bytes.Index(page, []byte(".SH COMMANDS\n")), bytes.Index(page, []byte(".SH OUTPUT\n"))
	if from < 0 || to < from {
		t.Fatalf("%s lacks .SH COMMANDS or .SH OUTPUT", path)
	}
	gen.File(t, path, append(appendManual(bytes.Clone(page[:from])), page[to:]...))

	var ours []string
	for i := range commands {
		if commands[i].added() {
			ours = append(ours, "--"+commands[i].long[0])
		}
	}
	for i := range options {
		if options[i].added() {
			ours = append(ours, "--"+options[i].long[0])
		}
	}
	gen.Section(t, "../../docs/differences.md", "our conntrack options", "* Commands and options of conntrack: "+gen.Names(ours)+".\n")
}

// spelled is one option as completion sees it.
type spelled struct {
	names  []string // with dashes
	arg    string   // the argument's name in the help; "" without argument
	values []string // what the argument can be; nil for anything
	list   bool     // the argument is a comma list of values
	file   bool     // the argument is a file
	shell  string   // a command that prints what the argument can be
	next   bool     // the argument can be left out
	help   string
}

// tableWords are the tables that a command can name.
func tableWords(op Op) []string {
	var names []string
	for _, t := range tableNames {
		if op == OpList || t.table == TableConntrack || t.table == TableExpect {
			names = append(names, t.name)
		}
	}
	return names
}

// completedCommands are the commands with the table word as their argument.
func completedCommands() []spelled {
	var all []spelled
	for _, c := range commands {
		s := spelled{names: dashed(c.short, c.long), help: c.help}
		if strings.Contains(c.args, "TABLE") {
			s.arg, s.values, s.next = "TABLE", tableWords(c.op), true
		}
		all = append(all, s)
	}
	return append(all, spelled{names: []string{loadShort, loadLong}, arg: "FILE", file: true, help: loadHelp})
}

func completedOption(o *option) spelled {
	s := spelled{names: dashed(o.short, o.long), arg: o.arg, next: o.next, help: o.help}
	switch o.bit {
	case OptProto:
		for i := range protocols {
			s.values = append(s.values, protocols[i].name)
		}
	case OptFamily:
		s.values = []string{"ipv4", "ipv6"}
	case OptStatus:
		s.list = true
		s.values = statusNames()
	case OptEventMask:
		s.list = true
		s.values = eventNames()
	case OptOutput:
		s.list = true
		s.values = outputNames()
	case OptLabelMap, OptMatch:
		s.file = true
	case OptLabel, OptLabelAdd, OptLabelDel:
		s.list = true
		s.shell = `sed -n "s/^[0-9][0-9]*[[:blank:]]*//p" ` + DefaultLabelFile + " 2>/dev/null"
	case OptKey:
		for _, key := range topKeyNames() {
			s.values = append(s.values, key)
			for _, column := range topSortNames() {
				s.values = append(s.values, key+","+column)
			}
		}
	case OptBy:
		s.values = countKeys[:]
	case OptNetNS:
		s.shell = "ls /run/netns 2>/dev/null"
	}
	return s
}

func completedProtoOption(proto *protocol, o *protoOption) spelled {
	s := spelled{names: dashed(0, o.long), arg: o.arg, help: o.help}
	switch o.arg {
	case "STATE":
		s.values = ctnetlink.StateNames(proto.number)
		if proto.number == ctnetlink.ProtoSCTP {
			s.values = s.values[:lastSCTPState+1]
		}
	case "ROLE":
		s.values = dccpRoles[:]
	}
	return s
}

// dashed spells an option's names; punctuation is left out.
func dashed(short byte, long []string) []string {
	var names []string
	if isAlnum(short) {
		names = append(names, "-"+string(rune(short)))
	}
	for _, l := range long {
		names = append(names, "--"+l)
	}
	return names
}

// allowedIn returns the names of the options that column does not refuse.
func allowedIn(column int) []string {
	var names []string
	for i, o := range options {
		if genericRules[column].refused&(1<<i) == 0 && o.bit != OptNATRange {
			names = append(names, dashed(o.short, o.long)...)
		}
	}
	return names
}

const completionHeader = "conntrack(8), made from its tables of options\n"

func appendBash(dst []byte) []byte {
	dst = append(dst, "# bash completion for "+completionHeader+`_conntrack() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local words='' list='' i
    COMPREPLY=()
    case $prev in
`...)
	all := completedCommands()
	for i := range options {
		all = append(all, completedOption(&options[i]))
	}
	for _, s := range all {
		pattern := strings.Join(s.names, "|")
		values := strings.Join(s.values, " ")
		switch {
		case s.file:
			dst = append(dst, "    "+pattern+") compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"...)
		case s.shell != "" && s.list:
			dst = append(dst, "    "+pattern+") list=$("+s.shell+") ;;\n"...)
		case s.shell != "":
			dst = append(dst, "    "+pattern+") COMPREPLY=($(compgen -W \"$("+s.shell+")\" -- \"$cur\")); return ;;\n"...)
		case s.list:
			dst = append(dst, "    "+pattern+") list='"+values+"' ;;\n"...)
		case s.values != nil:
			dst = append(dst, "    "+pattern+") words='"+values+"' ;;\n"...)
		case s.arg != "" && !s.next:
			dst = append(dst, "    "+pattern+") return ;;\n"...)
		}
	}
	dst = append(dst, "    --state|--role)\n        case \" ${COMP_WORDS[*]} $prev\" in\n"...)
	for i := range protocols {
		for j := range protocols[i].options {
			if s := completedProtoOption(&protocols[i], &protocols[i].options[j]); s.values != nil {
				for _, p := range []string{"-p ", "--protonum "} {
					dst = append(dst, "        *' "+p+protocols[i].name+" '*"+s.names[0]+") words='"+strings.Join(s.values, " ")+"' ;;\n"...)
				}
			}
		}
	}
	dst = append(dst, `        esac ;;
    esac
    if [[ $list ]]; then
        COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "$list" -- "${cur##*,}"))
        compopt -o nospace 2>/dev/null
        return
    fi
    [[ $words && $cur != -* ]] && { COMPREPLY=($(compgen -W "$words" -- "$cur")); return; }
    words=''
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
`...)
	for _, c := range commands {
		pattern := strings.Join(dashed(c.short, c.long), "|")
		dst = append(dst, "        "+pattern+") "...)
		if c.expectColumn != noColumn && c.expectColumn != c.column {
			dst = append(dst, "[[ ${COMP_WORDS[i+1]} == e* ]] && words+=' "+strings.Join(allowedIn(c.expectColumn), " ")+"' || "...)
		}
		names := allowedIn(c.column)
		if c.op == OpCount {
			for _, o := range options {
				if o.bit&countOptions != 0 {
					names = append(names, dashed(o.short, o.long)...)
				}
			}
		}
		dst = append(dst, "words+=' "+strings.Join(names, " ")+"' ;;\n"...)
	}
	dst = append(dst, `        -p|--protonum)
            case ${COMP_WORDS[i+1]} in
`...)
	for i := range protocols {
		var names []string
		for j := range protocols[i].options {
			names = append(names, dashed(0, protocols[i].options[j].long)...)
		}
		dst = append(dst, "            "+protocols[i].name+") words+=' "+strings.Join(names, " ")+"' ;;\n"...)
	}
	dst = append(dst, `            esac ;;
        esac
    done
    [[ $words ]] || words='`...)
	for i, s := range completedCommands() {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, strings.Join(s.names, " ")...)
	}
	return append(dst, `'
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _conntrack conntrack
`...)
}

func appendZsh(dst []byte) []byte {
	dst = append(dst, "#compdef conntrack\n# zsh completion for "+completionHeader+`local -a options
options=(
`...)
	for _, s := range completedCommands() {
		dst = appendZshOption(dst, "  ", s)
	}
	for i := range options {
		dst = appendZshOption(dst, "  ", completedOption(&options[i]))
	}
	dst = append(dst, `)
local i
for ((i = 2; i < CURRENT; i++)); do
  [[ $words[i] == (-p|--protonum) ]] || continue
  case $words[i+1] in
`...)
	for i := range protocols {
		dst = append(dst, "    "+protocols[i].name+") options+=(\n"...)
		for j := range protocols[i].options {
			dst = appendZshOption(dst, "      ", completedProtoOption(&protocols[i], &protocols[i].options[j]))
		}
		dst = append(dst, "    ) ;;\n"...)
	}
	return append(dst, `  esac
done
_arguments -s $options
`...)
}

func appendZshOption(dst []byte, indent string, s spelled) []byte {
	action := ""
	switch {
	case s.file:
		action = "_files"
	case s.shell != "":
		action = `{compadd -- ${(f)"$(` + s.shell + `)"}}`
	case s.list:
		action = "_values -s , " + strings.ToLower(s.arg[:strings.IndexByte(s.arg, '[')]) + " " + strings.Join(s.values, " ")
	case s.values != nil:
		action = "(" + strings.Join(s.values, " ") + ")"
	}
	for _, name := range s.names {
		dst = append(dst, indent+"'("+strings.Join(s.names, " ")+")"+name+"["+zshText(s.help)+"]"...)
		if s.arg != "" {
			dst = append(dst, ':')
			if s.next {
				dst = append(dst, ':')
			}
			dst = append(dst, zshText(strings.Trim(s.arg, "[]"))+":"+action...)
		}
		dst = append(dst, "'\n"...)
	}
	return dst
}

// zshText escapes the special characters of an option's specification.
func zshText(s string) string {
	return strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`, "'", `'\''`).Replace(s)
}

func appendFish(dst []byte) []byte {
	dst = append(dst, "# fish completion for "+completionHeader+"complete -c conntrack -f\n"...)
	for _, s := range completedCommands() {
		dst = appendFishOption(dst, "", s)
	}
	for i := range options {
		dst = appendFishOption(dst, "", completedOption(&options[i]))
	}
	for i := range protocols {
		dst = append(dst, "function __conntrack_"+protocols[i].name+"\n"+
			"    string match -qr -- '(^| )(-p ?|--protonum[ =])"+protocols[i].name+"( |$)' (commandline -cp)\nend\n"...)
		for j := range protocols[i].options {
			dst = appendFishOption(dst, " -n __conntrack_"+protocols[i].name, completedProtoOption(&protocols[i], &protocols[i].options[j]))
		}
	}
	return dst
}

func appendFishOption(dst []byte, condition string, s spelled) []byte {
	dst = append(dst, "complete -c conntrack"+condition...)
	for _, name := range s.names {
		if strings.HasPrefix(name, "--") {
			dst = append(dst, " -l "+name[2:]...)
		} else {
			dst = append(dst, " -s "+name[1:]...)
		}
	}
	switch {
	case s.file:
		dst = append(dst, " -r -F"...)
	case s.shell != "":
		dst = append(dst, " -x -a '("+s.shell+")'"...)
	case s.list:
		// Each word, and each as a further one behind a comma.
		dst = append(dst, ` -x -a '(__fish_complete_list , "string split \" \" \"`+strings.Join(s.values, " ")+`\"" "")'`...)
	case s.values != nil && !s.next:
		dst = append(dst, " -x -a '"+strings.Join(s.values, " ")+"'"...)
	case s.arg != "" && !s.next:
		dst = append(dst, " -x"...)
	}
	dst = append(dst, " -d '"+strings.ReplaceAll(s.help, "'", `\'`)+"'\n"...)
	if s.values != nil && s.next {
		// To fish the word behind the option is no argument of it.
		dst = append(dst, "complete -c conntrack -n \"string match -qr -- '("+strings.Join(s.names, "|")+
			") +[^ ]*\\$' (commandline -cp)\" -a '"+strings.Join(s.values, " ")+"'\n"...)
	}
	return dst
}

// appendManual appends the sections of the man page that list commands and options, in
// man(7) markup: from ".SH COMMANDS" to the end of the protocols' options.
func appendManual(dst []byte) []byte {
	dst = append(dst, ".SH COMMANDS\n"...)
	for _, c := range commands {
		dst = appendManEntry(dst, dashed(c.short, c.long), c.args, c.help)
	}
	dst = appendManEntry(dst, []string{loadShort, loadLong}, "FILE", loadHelp)
	dst = append(dst, ".SH OPTIONS\n"...)
	for g, title := range groupTitles {
		dst = append(dst, ".SS "+title+"\n"...)
		for _, o := range options {
			if o.group == group(g) {
				dst = appendManEntry(dst, dashed(o.short, o.long), o.arg, o.help)
			}
		}
	}
	dst = append(dst, ".SS "+manText(matchTitle)+"\n"...)
	for _, o := range lineOptions {
		dst = appendManEntry(dst, dashed(o.short, o.long), o.arg, o.help)
	}
	dst = append(dst, ".SH PROTOCOL OPTIONS\nThese options are valid after \\fB\\-p\\fP.\n"...)
	for i := range protocols {
		dst = append(dst, ".SS "+protocols[i].name+"\n"...)
		for _, o := range protocols[i].options {
			dst = appendManEntry(dst, dashed(0, o.long), o.arg, o.help)
		}
	}
	return dst
}

func appendManEntry(dst []byte, names []string, arg, help string) []byte {
	dst = append(dst, ".TP\n"...)
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, `\fB`+manText(name)+`\fP`...)
	}
	if arg != "" {
		dst = append(dst, ` \fI`+manText(arg)+`\fP`...)
	}
	return append(dst, "\n"+strings.ToUpper(help[:1])+manText(help[1:])+".\n"...)
}

// manText escapes what man(7) would take for markup or a hyphen.
func manText(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
}

// TestBashCompletion has bash complete the last word of command lines.
func TestBashCompletion(t *testing.T) {
	ns := netnstest.New(t, "completed")
	for _, c := range []struct {
		line string
		with []string // all of these are offered
		not  []string // must not be offered
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
		{"-L -p tcp --state EST", []string{"ESTABLISHED"}, []string{"OPEN"}},
		{"-L --protonum dccp --state ", []string{"OPEN"}, []string{"ESTABLISHED"}},
		{"-I -p dccp --role ", []string{"client", "server"}, []string{"OPEN"}},
		{"--top --key sou", []string{"source", "source,bytes"}, []string{"mark"}},
		{"-C --by ", []string{"zone", "netns"}, nil},
		{"-L --netns ", []string{ns.Name}, []string{"-s", "conntrack"}},
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
