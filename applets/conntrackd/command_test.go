package conntrackd

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"ctbox/applets/conntrackd/control"
)

func TestParse(t *testing.T) {
	selecting := func(r control.Request, words ...string) command {
		c := command{op: opClient, config: defaultConfig, request: r}
		for i := 0; i < len(words); i += 2 {
			if err := c.selection.Set(words[i], words[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	client := func(r control.Request) command { return command{op: opClient, config: defaultConfig, request: r} }
	for _, c := range []struct {
		args string // blank-separated; '' is the empty argument
		want command
		err  string // with a ! in front: without usage
	}{
		{"", command{op: opConsole, config: defaultConfig}, ""},
		{"-d", command{op: opDaemon, config: defaultConfig}, ""},
		{"-d -d -C /x", command{op: opDaemon, config: "/x"}, ""},
		{"-C ''", command{op: opConsole, config: defaultConfig}, ""},
		{"-C /x -C '' -s", client(control.StatsFlows), ""},
		{"-C -s", command{op: opConsole, config: "-s"}, ""},
		{"-C", command{}, "Missing config filename"},
		{"-s -C", command{}, "Missing config filename"},
		{"-v foo", command{op: opVersion, config: defaultConfig}, ""},
		{"-d -v", command{op: opVersion, config: defaultConfig}, ""},
		{"-d -h", command{op: opHelp, config: defaultConfig}, ""},

		{"-c", client(control.CommitAll), ""},
		{"-c ct", client(control.CommitFlows), ""},
		{"-c e", client(control.CommitExpects), ""},
		{"-c ''", command{}, "Unknown option: "},
		{"-F ''", command{}, "Unknown option: "},
		{"-Fct", command{}, "Unknown option: -Fct"},
		{"-kill", command{}, "Unknown option: -kill"},
		{"-f ''", command{}, "!unknown parameter `' for option `-f'"},
		{"-c ctx", command{}, "Unknown option: ctx"},
		{"-c foo", command{}, "Unknown option: foo"},
		{"-i", client(control.DumpInternal), ""},
		{"-i expect", client(control.DumpInternalExp), ""},
		{"-ix", command{}, "Unknown option: -ix"},
		{"-i -x", client(control.DumpInternalXML), ""},
		{"-e exp -x", client(control.DumpExternalExpXML), ""},
		{"-i -C /x -x", command{op: opClient, config: "/x", request: control.DumpInternalXML}, ""},
		{"-x -i", command{}, "Invalid parameters"},
		{"-i -x -x", command{}, "Invalid parameters"},
		{"-i -k -x", command{}, "Invalid parameters"},
		{"-d -x", command{}, "Invalid parameters"},
		{"-i ext", command{}, "Unknown option: ext"},
		{"-e expectx", command{}, "Unknown option: expectx"},
		{"-i ct -C /x -x", command{op: opClient, config: "/x", request: control.DumpInternalXML}, ""},
		{"-f", client(control.FlushCaches), ""},
		{"-f int", client(control.FlushInternal), ""},
		{"-f external", client(control.FlushExternal), ""},
		{"-f foo", command{}, "!unknown parameter `foo' for option `-f'"},
		{"-F", client(control.FlushKernelAll), ""},
		{"-F ct", client(control.FlushKernelFlows), ""},
		{"-F exp", client(control.FlushKernelExpects), ""},
		{"-R", client(control.RefillAll), ""},
		{"-R ct", client(control.RefillFlows), ""},
		{"-R expect", client(control.RefillExpects), ""},
		{"-n", client(control.Resync), ""},
		{"-B", client(control.Bulk), ""},
		{"-t", client(control.SchedulePurge), ""},
		{"-k", client(control.Kill), ""},
		{"-k -s", client(control.StatsFlows), ""},
		{"-s", client(control.StatsFlows), ""},
		{"xs", command{}, "Unknown option: xs"},
		{"-s ''", command{}, "!unknown parameter `' for option `-s'"},
		{"-s n", client(control.StatsNetwork), ""},
		{"-s c", client(control.StatsCache), ""},
		{"-s ct", client(control.StatsFlows), ""},
		{"-s r", client(control.StatsRuntime), ""},
		{"-s rs", client(control.StatsResendQueue), ""},
		{"-s link", client(control.StatsLink), ""},
		{"-s p", client(control.StatsProcess), ""},
		{"-s queue", client(control.StatsQueue), ""},
		{"-s e", client(control.StatsExpects), ""},
		{"-s metrics", client(control.Metrics), ""},
		{"-s h", client(control.StatsHelpers), ""},
		{"-s pe", client(control.StatsPeers), ""},
		{"-s peers --json", client(control.StatsPeers | control.AsJSON), ""},
		{"--ready", client(control.Ready(0)), ""},
		{"--ready --max-lag 5 -C /x", command{op: opClient, config: "/x", request: control.Ready(5), maxLag: 5}, ""},
		{"--max-lag 16383 --ready", command{op: opClient, config: defaultConfig, request: control.Ready(16383), maxLag: 16383}, ""},
		{"--ready --max-lag", command{}, "--max-lag takes a number of seconds from 1 to 16383"},
		{"--ready --max-lag 0", command{}, "--max-lag takes a number of seconds from 1 to 16383"},
		{"--ready --max-lag 16384", command{}, "--max-lag takes a number of seconds from 1 to 16383"},
		{"--ready --max-lag 1s", command{}, "--max-lag takes a number of seconds from 1 to 16383"},
		{"--max-lag 5", command{}, "Invalid parameters"},
		{"--max-lag 5 -s", command{}, "Invalid parameters"},
		{"--ready -s", command{}, "Invalid parameters"},
		{"-d --ready", command{}, "Invalid parameters"},
		{"--ready --json", command{}, "Invalid parameters"},
		{"--ready --strict", command{}, "Invalid parameters"},
		{"--ready --no-sandbox", command{}, "Invalid parameters"},
		{"-s helpers --json", client(control.StatsHelpers | control.AsJSON), ""},
		{"-s m", command{op: opClient, config: defaultConfig, request: control.StatsLink,
			notes: []string{"use `link' instead of `multicast' as parameter."}}, ""},
		{"-s zzz", command{}, "!unknown parameter `zzz' for option `-s'"},
		{"-s ct expect", command{}, "Unknown option: expect"},
		{"-d -s", command{}, "Invalid parameters"},
		{"-s -d", command{}, "Invalid parameters"},
		{"foo", command{}, "Unknown option: foo"},
		{"-", command{}, "Unknown option: -"},
		{"''", command{}, "Unknown option: "},
		{"--", command{}, "Unknown option: --"},
		{"--help", command{}, "Unknown option: --help"},

		{"-C /x --check", command{op: opCheck, config: "/x"}, ""},
		{"--check --syntax", command{op: opCheck, config: defaultConfig, syntax: true}, ""},
		{"--syntax -C /x --check", command{op: opCheck, config: "/x", syntax: true}, ""},
		{"--syntax", command{}, "Invalid parameters"},
		{"--syntax -s", command{}, "Invalid parameters"},
		{"-d --syntax", command{}, "Invalid parameters"},
		{"--check -d", command{}, "Invalid parameters"},
		{"--genkey", command{op: opGenKey, config: defaultConfig}, ""},
		{"--genkey -s", command{}, "Invalid parameters"},
		{"--check --genkey", command{}, "Invalid parameters"},
		{"--genkey --json", command{}, "Invalid parameters"},
		{"--genkey --no-sandbox", command{}, "Invalid parameters"},
		{"-C /x --top", command{op: opTop, config: "/x"}, ""},
		{"--top --json", command{op: opTop, config: defaultConfig, json: true}, ""},
		{"--top -s", command{}, "Invalid parameters"},
		{"--top -d", command{}, "Invalid parameters"},
		{"--top -x", command{}, "Invalid parameters"},
		{"--check -s", command{}, "Invalid parameters"},
		{"--no-sandbox", command{op: opConsole, config: defaultConfig, noSandbox: true}, ""},
		{"-d --no-sandbox", command{op: opDaemon, config: defaultConfig, noSandbox: true}, ""},
		{"--no-sandbox -s", command{}, "Invalid parameters"},
		{"--check --no-sandbox", command{}, "Invalid parameters"},
		{"--reload", client(control.Reload), ""},
		{"--reload -C /x", command{op: opClient, config: "/x", request: control.Reload}, ""},
		{"-c --strict", command{op: opClient, config: defaultConfig, request: control.CommitAll, strict: true}, ""},
		{"--strict -c exp -C /x", command{op: opClient, config: "/x", request: control.CommitExpects, strict: true}, ""},
		{"--strict", command{}, "Invalid parameters"},
		{"--strict -s", command{}, "Invalid parameters"},
		{"--strict -d", command{}, "Invalid parameters"},
		{"--strict --reload", command{}, "Invalid parameters"},
		{"-d --reload", command{}, "Invalid parameters"},
		{"--reload --check", command{}, "Invalid parameters"},
		{"--reload --json", command{}, "Invalid parameters"},
		{"--json", command{}, "Invalid parameters"},
		{"-s --json", client(control.StatsFlows | control.WithOutcome | control.AsJSON), ""},
		{"-s net -o json", client(control.StatsNetwork | control.WithOutcome | control.AsJSON), ""},
		{"-s rsqueue --json", client(control.StatsResendQueue | control.WithOutcome | control.AsJSON), ""},
		{"-o json -e exp", client(control.DumpExternalExp | control.WithOutcome | control.AsJSON), ""},
		{"-i -x -o json", client(control.DumpInternal | control.WithOutcome | control.AsJSON), ""},
		{"-o xml", command{}, "-o takes one word: json"},
		{"-o", command{}, "-o takes one word: json"},
		{"-c -o json", client(control.CommitAll | control.WithOutcome | control.AsJSON), ""},
		{"-c ct --json --strict", command{op: opClient, config: defaultConfig, request: control.CommitFlows | control.WithOutcome | control.AsJSON, strict: true}, ""},
		{"-c -x", command{}, "Invalid parameters"},
		{"-c --owner fw1", selecting(control.CommitAll, "--owner", "fw1"), ""},
		{"--owner fw1 -c", selecting(control.CommitAll, "--owner", "fw1"), ""},
		{"-c expect --owner 1 --zone 7", selecting(control.CommitExpects, "--owner", "1", "--zone", "7"), ""},
		{"-c --nat-src 203.0.113.1 --src 192.0.2.0/24 --mark 0x10/0xf0 -o json",
			selecting(control.CommitAll|control.WithOutcome|control.AsJSON, "--nat-src", "203.0.113.1", "--src", "192.0.2.0/24", "--mark", "0x10/0xf0"), ""},
		{"-e --owner fw2", selecting(control.DumpExternal, "--owner", "fw2"), ""},
		{"-e expect -x --owner fw2", selecting(control.DumpExternalExpXML, "--owner", "fw2"), ""},
		{"-e --owner fw2 --json", selecting(control.DumpExternal|control.WithOutcome|control.AsJSON, "--owner", "fw2"), ""},
		{"-e --zone 7", command{}, "Invalid parameters"},
		{"-e --owner fw2 --zone 7", command{}, "Invalid parameters"},
		{"-i --owner fw2", command{}, "Invalid parameters"},
		{"-s --owner fw2", command{}, "Invalid parameters"},
		{"-k --owner fw2", command{}, "Invalid parameters"},
		{"-F --src 192.0.2.1", command{}, "Invalid parameters"},
		{"-d --owner fw2", command{}, "Invalid parameters"},
		{"--check --owner fw2", command{}, "Invalid parameters"},
		{"--owner fw2", command{}, "Invalid parameters"},
		{"-c --owner", command{}, `!--owner takes the name or number of a node, found ""`},
		{"-c --owner -s", command{}, `!--owner takes the name or number of a node, found ""`},
		{"-c --owner ''", command{}, `!--owner takes the name or number of a node, found ""`},
		{"-c --nat-src 192.0.2.0/24", command{}, `!--nat-src takes an address, found "192.0.2.0/24"`},
		{"-c --src 192.0.2.0/33", command{}, `!--src takes an address or a network, found "192.0.2.0/33"`},
		{"-c --zone 65536", command{}, `!--zone takes a number from 0 to 65535, found "65536"`},
		{"-c --mark 0x11/0xf0", command{}, `!--mark takes a number up to 0xffffffff, or VALUE/MASK, without bits of VALUE outside MASK, found "0x11/0xf0"`},
		{"-c --owner fw1 --owner fw2", command{}, "!--owner is there twice"},
		{"-s metrics -o json", command{}, "Invalid parameters"},
		{"-C " + strings.Repeat("x", 4097), command{op: opConsole, config: strings.Repeat("x", 4096),
			notes: []string{"Path to config file to long. Cutting it down to 4096 characters"}}, ""},
	} {
		args := strings.Fields(c.args)
		for i, a := range args {
			if a == "''" {
				args[i] = ""
			}
		}
		got, err := parse(args)
		if c.err != "" {
			text, noUsage := strings.CutPrefix(c.err, "!")
			var wrong *usageError
			if !errors.As(err, &wrong) || wrong.text != text || wrong.usage == noUsage {
				t.Errorf("%s: error %#v, want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || got.op != c.want.op || got.config != c.want.config || got.request != c.want.request || got.strict != c.want.strict || got.selection != c.want.selection ||
			strings.Join(got.notes, "\n") != strings.Join(c.want.notes, "\n") {
			t.Errorf("%.40s: %+v, %v, want %+v", c.args, got, err, c.want)
		}
	}
}

// TestManualPage checks the man page: its command lines are valid, and it has each option of the help.
func TestManualPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/man/conntrackd.8")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.ReplaceAll(string(text), `\-`, "-")
	commands := 0
	for rest := page; ; {
		_, after, found := strings.Cut(rest, ".nf\n")
		if !found {
			break
		}
		var block string
		block, rest, _ = strings.Cut(after, ".fi\n")
		for _, piece := range strings.FieldsFunc(block, func(r rune) bool { return strings.ContainsRune("\n();&|", r) }) {
			piece, _, _ = strings.Cut(piece, ">")
			args := strings.Fields(piece)
			if len(args) == 0 || args[0] != "conntrackd" {
				continue
			}
			commands++
			if _, err := parse(args[1:]); err != nil {
				t.Errorf("%q: %v", args, err)
			}
		}
	}
	if commands != 8 {
		t.Errorf("%d commands", commands)
	}
	for line := range strings.Lines(usage("conntrackd")) {
		option, ok := strings.CutPrefix(line, "  -")
		if !ok {
			continue
		}
		option = "-" + strings.FieldsFunc(option, func(r rune) bool { return strings.ContainsRune(" ,\n", r) })[0]
		if !regexp.MustCompile(`(?m)^\.BI?R? "?` + option + `\b`).MatchString(page) {
			t.Errorf("the man page lacks %s", option)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"-s\x00network", "-i\x00-x", "-C\x00/x\x00-d", "-o\x00json\x00-e\x00exp", "-c\x00--owner\x00fw1\x00--mark\x001/3", "--check", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cmd, err := parse(strings.Split(line, "\x00"))
		if err == nil && cmd.op == opClient && cmd.request == 0 {
			// FlushKernelFlows is 0: only -F ct means it.
			if !strings.Contains(line, "F") {
				t.Errorf("%q flushes the kernel's table", line)
			}
		}
	})
}
