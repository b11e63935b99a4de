package interop

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// An entry is the part of a line of a cache's dump that the wire carries: without the reply
// tuple, ages, the owner, and fields that mean the same as their absence.
type entry = string

var (
	ages    = regexp.MustCompile(` \[((active since|expires in) -?\d+s|owner=\w+)\]`)
	nothing = regexp.MustCompile(` (mark=0|secctx=null|zone=0|helper=\S+)\b`)
	numbers = regexp.MustCompile(` (sport|dport|srckey|dstkey)=\w+`)
	address = regexp.MustCompile(` src=\S+ dst=\S+`)
	reply   = regexp.MustCompile(` src=\S+ dst=\S+( (sport|dport|type|code|id|srckey|dstkey)=\w+)*`)
)

// entryOf returns the entry of a line.
func entryOf(line string) entry {
	if strings.HasPrefix(line, "proto=") {
		return strings.TrimSpace(ages.ReplaceAllString(line, "")) // an expectation
	}
	line = nothing.ReplaceAllString(ages.ReplaceAllString(strings.TrimSpace(line), ""), "")
	// A flow in the internal cache has a reply tuple, one in the external cache does not.
	if at := address.FindAllStringIndex(line, 2); len(at) == 2 {
		line = line[:at[1][0]] + reply.ReplaceAllString(line[at[1][0]:], "")
	}
	// The wire has ports for TCP, UDP, SCTP and DCCP only.
	if strings.HasPrefix(line, "udplite") || strings.HasPrefix(line, "gre") || strings.HasPrefix(line, "dccp") {
		line = numbers.ReplaceAllString(line, "")
	}
	return strings.Join(strings.Fields(line), " ")
}

// entriesOf returns the entries of a dump as a set.
func entriesOf(dump string) map[entry]bool {
	set := map[entry]bool{}
	for line := range strings.Lines(dump) {
		set[entryOf(line)] = true
	}
	return set
}

// entryOfFlow returns the entry of a kernel's flow.
func entryOfFlow(f *ctnetlink.Flow) entry {
	f.Reply = ctnetlink.Tuple{}
	return entryOf(string(format.AppendFlow(nil, f, &format.Style{Without: format.CacheWithout | ctnetlink.HasTimestampStart}, nil)))
}

func entryOfExpect(x *ctnetlink.Expect) entry {
	return entryOf(string(format.AppendExpect(nil, x, &format.Style{WithoutExpect: ctnetlink.ExpectHasTimeout}, nil)))
}

// difference describes the elements that only one of the sets has.
func difference(want, got map[entry]bool) string {
	var lines []string
	for e := range want {
		if !got[e] {
			lines = append(lines, "- "+e)
		}
	}
	for e := range got {
		if !want[e] {
			lines = append(lines, "+ "+e)
		}
	}
	slices.Sort(lines)
	const enough = 10
	if more := len(lines) - enough; more > 0 {
		lines = append(lines[:enough], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// about keeps the entries of one side's networks.
func about(set map[entry]bool, side *side) map[entry]bool {
	kept := maps.Clone(set)
	maps.DeleteFunc(kept, func(e entry, _ bool) bool { return !side.owns(e) })
	return kept
}
