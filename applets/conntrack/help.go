package conntrack

import (
	"strings"

	"ctbox/internal/version"
)

// helpColumn is where the texts of options begin.
const helpColumn = 34

// AppendVersion appends what -V prints: conntrack-tools' own text, then ctbox's
// version.
func AppendVersion(dst []byte) []byte {
	return append(dst, "conntrack v"+version.ConntrackTools+" (conntrack-tools), ctbox v"+version.Number+"\n"...)
}

// AppendHelp appends what -h prints. program is argv[0]; proto is
// Command.HelpProto, or "" without -p.
func AppendHelp(dst []byte, program, proto string) []byte {
	dst = append(dst, "Command line interface for the connection tracking system. Version "+version.ConntrackTools+"\n"...)
	dst = append(dst, "Usage: "+program+" [commands] [options]\n\nCommands:\n"...)
	for _, c := range commands {
		dst = appendEntry(dst, spellings(c.short, c.long), c.args, c.help)
	}
	dst = appendEntry(dst, loadShort+", "+loadLong, "FILE", loadHelp)
	dst = append(dst, "\nTables: conntrack, expect, dying, unconfirmed\n"...)
	for g, title := range groupTitles {
		dst = append(dst, "\n"+title+":\n"...)
		for _, o := range options {
			if o.group == group(g) {
				dst = appendEntry(dst, spellings(o.short, o.long), o.arg, o.help)
			}
		}
	}
	if proto != "" {
		dst = appendProtocolHelp(dst, proto)
	}
	return append(dst, '\n')
}

func appendProtocolHelp(dst []byte, proto string) []byte {
	dst = append(dst, "\nProto `"+proto+"' help:\n"...)
	for i := range protocols {
		if protocols[i].name != proto {
			continue
		}
		for _, o := range protocols[i].options {
			dst = appendEntry(dst, spellings(0, o.long), o.arg, o.help)
		}
		return dst
	}
	return append(dst, "  no options (unsupported)\n"...)
}

// spellings lists how an option can be written. The short forms that are
// punctuation work, but they need quotes in a shell and are better not learnt.
func spellings(short byte, long []string) string {
	text := ""
	if isAlnum(short) {
		text = "-" + string(rune(short)) + ", "
	}
	return text + "--" + strings.Join(long, ", --")
}

func appendEntry(dst []byte, names, arg, help string) []byte {
	start := len(dst)
	dst = append(dst, "  "+names...)
	if arg != "" {
		dst = append(dst, " "+arg...)
	}
	if len(dst)-start > helpColumn-2 {
		dst = append(dst, '\n')
		start = len(dst)
	}
	for len(dst)-start < helpColumn {
		dst = append(dst, ' ')
	}
	dst = append(dst, help...)
	return append(dst, '\n')
}
