package report

import (
	"strconv"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
	"ctbox/sync/node"
)

// EntryWriter writes the entries of a cache, each on its line. Format is Text, XML (elements
// without a root) or JSON.
type EntryWriter struct {
	Format format.Format
	// Now is the time of the dump, for the age of flows with a start time.
	Now time.Time
}

// Append appends an entry with its newline. Counters and timeout of a cached entry are stale,
// so they are omitted; text and JSON have instead how long the entry has been in the cache
// and, in ALARM mode, when it expires. The last of all is the owner, where there are owners.
func (w EntryWriter) Append(dst []byte, e *node.Entry) []byte {
	style := format.Style{Format: w.Format, Now: w.Now.UnixNano()}
	if !e.Live {
		style.Without = format.CacheWithout
		style.WithoutExpect = ctnetlink.ExpectHasTimeout
	}
	if e.Flow != nil {
		dst = format.AppendFlow(dst, e.Flow, &style, nil)
	} else {
		dst = format.AppendExpect(dst, e.Expect, &style, nil)
	}
	switch w.Format {
	case format.Text:
		dst = appendAges(dst, e, " [expires in ", " [active since ", "s]")
		if e.Owner != "" {
			dst = append(append(append(dst, " [owner="...), e.Owner...), ']')
		}
	case format.JSON:
		dst = dst[:len(dst)-1]
		dst = appendAges(dst, e, `,"expires_in":`, `,"active_since":`, "")
		if e.Owner != "" { // its characters need no escapes
			dst = append(append(append(dst, `,"owner":"`...), e.Owner...), '"')
		}
		dst = append(dst, '}')
	}
	return append(dst, '\n')
}

func appendAges(dst []byte, e *node.Entry, expires, active, end string) []byte {
	if e.Live {
		return dst
	}
	if e.Expires {
		dst = strconv.AppendInt(append(dst, expires...), int64(e.ExpiresIn/time.Second), 10)
		dst = append(dst, end...)
	}
	dst = strconv.AppendInt(append(dst, active...), int64(e.ActiveSince/time.Second), 10)
	return append(dst, end...)
}

// AppendEnded appends the line that statistics mode logs for a flow that ended, without time
// and newline: the attributes of the kernel's destroy event, including counters.
func AppendEnded(dst []byte, f *ctnetlink.Flow, now time.Time) []byte {
	style := format.Style{Now: now.UnixNano(), Without: ctnetlink.HasTimeout | ctnetlink.HasUse}
	return format.AppendFlow(dst, f, &style, nil)
}
