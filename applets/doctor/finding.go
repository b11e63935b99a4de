package doctor

import (
	"strings"

	"ctbox/internal/jsonout"
)

// Severity is the severity of a finding.
type Severity uint8

// The severities, in ascending order. A Note does not always need a fix: it may surprise, or
// says what could not be checked.
const (
	OK Severity = iota
	Note
	Warning
	Error
)

var severityNames = [...]string{OK: "ok", Note: "note", Warning: "warning", Error: "error"}

// String returns the name that text and JSON use.
func (s Severity) String() string { return severityNames[s] }

// Finding is a result of a check.
type Finding struct {
	ID       string // of the check
	Severity Severity
	Seen     string
	Reason   string // why it matters; "" for OK
	Fix      string // the command that fixes it; "" if none does
}

// report collects the findings of a run.
type report struct {
	findings []Finding
	id       string
	exec     string // runs a command in the examined network namespace, "" without --netns
}

// about sets the check to which further findings belong.
func (r *report) about(id string) *report {
	r.id = id
	return r
}

// add adds a finding. Inlining it would double the size of the applet.
//
//go:noinline
func (r *report) add(s Severity, seen, reason, fix string) {
	if r.exec != "" && ofNamespace(fix) {
		fix = r.exec + " " + fix
	}
	r.findings = append(r.findings, Finding{ID: r.id, Severity: s, Seen: seen, Reason: reason, Fix: fix})
}

// ofNamespace reports whether a command changes the network namespace that it runs in.
// The size of the table, its hash table and the limits of net.core are the machine's.
func ofNamespace(fix string) bool {
	name, sysctl := strings.CutPrefix(fix, "sysctl -w net.netfilter.")
	return strings.HasPrefix(fix, "nft ") || strings.HasPrefix(fix, "ip ") ||
		sysctl && !strings.HasPrefix(name, "nf_conntrack_max") && !strings.HasPrefix(name, "nf_conntrack_buckets")
}

//go:noinline
func (r *report) ok(seen string) { r.add(OK, seen, "", "") }

// status returns the exit status for the worst finding.
func (r *report) status() int {
	worst := OK
	for _, f := range r.findings {
		worst = max(worst, f.Severity)
	}
	switch worst {
	case Error:
		return exitError
	case Warning:
		return exitWarning
	}
	return exitOK
}

// worstFirst calls each with the findings, sorted by descending severity and then in the order
// of the checks, and returns the number of findings of each severity.
func (r *report) worstFirst(each func(*Finding)) (counts [len(severityNames)]uint64) {
	for s := len(severityNames) - 1; s >= 0; s-- {
		for i := range r.findings {
			if f := &r.findings[i]; int(f.Severity) == s {
				counts[s]++
				each(f)
			}
		}
	}
	return counts
}

const blanks = "               " // the widest column

// appendText writes each finding as a line with severity, check and observation, followed by
// lines with the reason and the fix, then a line with the totals.
func appendText(dst []byte, r *report) []byte {
	counts := r.worstFirst(func(f *Finding) {
		s := f.Severity.String()
		for _, part := range [...]string{s, blanks[:9-len(s)], f.ID, blanks[:15-len(f.ID)], printable(f.Seen), "\n"} {
			dst = append(dst, part...)
		}
		dst = appendLine(dst, "why:  ", f.Reason)
		dst = appendLine(dst, "fix:  ", f.Fix)
	})
	for s := len(counts) - 1; s >= 0; s-- {
		dst = append(dst, severityNames[s]+" "+decimal(counts[s])+", "...)
	}
	return append(dst[:len(dst)-len(", ")], '\n')
}

//go:noinline
func appendLine(dst []byte, what, text string) []byte {
	if text == "" {
		return dst
	}
	return append(dst, blanks[:9]+what+printable(text)+"\n"...)
}

// printable replaces control characters, which names in files or the kernel may contain.
//
//go:noinline
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// appendJSON writes each finding as an object on its line.
func appendJSON(dst []byte, r *report) []byte {
	o := jsonout.Object{Dst: dst}
	r.worstFirst(func(f *Finding) {
		o.Begin()
		o.Text("severity", f.Severity.String())
		o.Text("id", f.ID)
		o.Text("seen", f.Seen)
		if f.Reason != "" {
			o.Text("reason", f.Reason)
		}
		if f.Fix != "" {
			o.Text("fix", f.Fix)
		}
		o.Line()
	})
	return o.Dst
}
