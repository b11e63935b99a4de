package conntrack

import "strings"

// AppendManual appends the sections of the man page that list commands and
// options, in man(7) markup: from ".SH COMMANDS" to the end of the protocols'
// options.
func AppendManual(dst []byte) []byte {
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
	dst = append(dst, ".SH PROTOCOL OPTIONS\nThey are known behind \\fB\\-p\\fP.\n"...)
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
