package conntrack

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ctbox/internal/netnstest"
)

// normalize removes from a run's output what differs between two namespaces or times:
//
//   - the version in front of messages;
//   - the kernel's ids of flows, and netlink ports with the names of their
//     programs, which may have ended;
//   - times, and how long ago they were;
//   - timeouts run down: they are rounded up to whole hundreds, in which scripts
//     give them;
//   - the order in which the kernel has flows in its hash table: lines are
//     sorted, but of -E only those of flows that ended one after the other;
//   - the number of references, where -U or -D has just held one (use=2, or not);
//   - the CPU on which something was counted: -S shows names, no values;
//   - hints, which conntrack-tools does not have (row A20); TestHints has them.
func normalize(argv []string, r netnstest.Result) netnstest.Result {
	r.Stdout, r.Stderr = normalizeText(argv, r.Stdout), hints.ReplaceAllString(normalizeText(argv, r.Stderr), "")
	if len(argv) > 1 && argv[1] == "-E" {
		r.Stdout = sortEnds(r.Stdout)
	} else {
		r.Stdout = sortFlows(r.Stdout)
	}
	return r
}

var hints = regexp.MustCompile(`(?m)^Hint: .*\n`)

type substitution struct {
	pattern *regexp.Regexp
	with    string
}

// varying are the members of -o json that differ between two namespaces or two times.
var varying = []string{"id", "time", "start", "stop", "delta_time"}

var substitutions = []substitution{
	{regexp.MustCompile(`(?m)^conntrack v[0-9.]+ \(conntrack-tools\)`), "conntrack vX"},
	{regexp.MustCompile(`(?m), ctbox v[0-9.]+$`), ", ctbox vX"},
	{regexp.MustCompile(`(?m)Connection tracking system\. Version [0-9.]+$`), "connection tracking system. Version X"},
	// But not the id of ICMP, which follows a code.
	{regexp.MustCompile(`((?:use|mark|zone|delta-time|dport|bytes|dstkey|dst|helper)=\S+|\]) id=\d+`), "$1 id=#"},
	{regexp.MustCompile(`<id>\d+</id>`), "<id>#</id>"},
	{regexp.MustCompile(`(?m)(-i) \d+`), "$1 #"},
	{regexp.MustCompile(`portid=\d+( progname=\S+)?`), "portid=#"},
	{regexp.MustCompile(`(?m)^\[\d{8,}\.\d{1,6} *\]\t`), "[#]\t"},
	{regexp.MustCompile(`\[(start|stop)=[^]]*\]`), "[$1=#]"},
	{regexp.MustCompile(`<(start|stop)>\d+</`), "<$1>#</"},
	{regexp.MustCompile(`<when>.*?</when>`), "<when>#</when>"},
	{regexp.MustCompile(`delta-time=\d+`), "delta-time=#"},
	{regexp.MustCompile(`<deltatime>\d+</`), "<deltatime>#</"},
	{regexp.MustCompile(`"(` + strings.Join(varying, "|") + `)":[0-9.]+`), `"$1":"#"`},
	{regexp.MustCompile(`"portid":\d+(,"progname":"[^"]*")?`), `"portid":"#"`},
}

// timeouts match the places of timeouts.
var timeouts = []*regexp.Regexp{
	// TCP      6 431999 ESTABLISHED src=…
	regexp.MustCompile(`(?m)(^(?:\[#\]\t)?(?:\s*\[[A-Z]+\] )?(?:ipv[46] +\d+ )?[a-z0-9]+ +\d+ )(\d+)( )`),
	// 298 proto=6 …
	regexp.MustCompile(`(?m)(^(?:\[[^]]*\]\t)?(?:\s*\[[A-Z]+\] )?)(\d+)( proto=)`),
	regexp.MustCompile(`(<timeout>)(\d+)(</)`),
	regexp.MustCompile(`("timeout":)(\d+)()`),
	regexp.MustCompile(`(?m)(^-[AUD] -t )(\d+)( )`),
}

var (
	references = regexp.MustCompile(`(use=|<use>)\d+`)
	counters   = regexp.MustCompile(`([a-z_]+)=\d+ `)
)

func normalizeText(argv []string, text string) string {
	for _, s := range substitutions {
		text = s.pattern.ReplaceAllString(text, s.with)
	}
	text = roundTimeouts(text)
	if len(argv) < 2 {
		return text
	}
	switch argv[1] {
	case "-U", "--update", "-D", "--delete", "-R":
		text = references.ReplaceAllString(text, "$1#")
	case "-S", "--stats":
		text = counters.ReplaceAllString(text, "$1=# ")
	}
	return text
}

func roundTimeouts(text string) string {
	for _, place := range timeouts {
		text = place.ReplaceAllStringFunc(text, func(found string) string {
			m := place.FindStringSubmatch(found)
			seconds, err := strconv.ParseUint(m[2], 10, 64)
			if err != nil {
				return found
			}
			return m[1] + strconv.FormatUint((seconds+99)/100*100, 10) + m[3]
		})
	}
	return text
}

var documentTags = map[string]bool{"<conntrack>\n": true, "</conntrack>\n": true, "<expect>\n": true, "</expect>\n": true}

// sortFlows sorts the lines, but leaves what begins or ends a document in its
// place.
func sortFlows(text string) string {
	lines := strings.SplitAfter(text, "\n")
	begin := 0
	for i, line := range append(lines, "") {
		if line == "" || strings.HasPrefix(line, "<?xml") || documentTags[line] {
			slices.Sort(lines[begin:min(i, len(lines))])
			begin = i + 1
		}
	}
	return strings.Join(lines, "")
}

// isEnd matches the event of a flow that ended.
var isEnd = regexp.MustCompile(`^(\[#\]\t)?\[DESTROY\]|^<flow type="destroy">|^-D `)

// sortEnds sorts runs of events of flows that ended.
func sortEnds(text string) string {
	lines := strings.SplitAfter(text, "\n")
	begin := 0
	for i, line := range lines {
		if !isEnd.MatchString(line) {
			slices.Sort(lines[begin:i])
			begin = i + 1
		}
	}
	return strings.Join(lines, "")
}

// normalizeTable makes lines of -o json comparable: what is normalised in text
// is left out, and so are references, which an ended command may still hold.
func normalizeTable(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		entry := map[string]any{}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			return []string{err.Error() + ": " + text}
		}
		for _, name := range append(varying, "use") {
			delete(entry, name)
		}
		sorted, err := json.Marshal(entry)
		if err != nil {
			return []string{err.Error() + ": " + text}
		}
		lines = append(lines, roundTimeouts(string(sorted)))
	}
	slices.Sort(lines)
	return lines
}
