package report

import (
	"strconv"

	"ctbox/internal/jsonout"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/ready"
)

// AppendTaken appends what `-c` says of the nodes in a cluster with owners, or with a selector:
// whose flows were taken, and what is known of the copy that they were taken from, then which
// nodes keep theirs.
func AppendTaken(dst []byte, r *commit.Result) []byte {
	for i := range r.Taken {
		t := &r.Taken[i]
		dst = append(append(dst, nameOf(t)...), ": "...)
		if t.Heard < 0 {
			dst = append(dst, "never heard, "...)
		} else {
			dst = append(append(append(dst, "heard "...), ready.Seconds(t.Heard)...), " ago, "...)
		}
		switch t.Holes {
		case 0:
			dst = append(dst, "no hole"...)
		case 1:
			dst = append(dst, "1 hole"...)
		default:
			dst = append(strconv.AppendInt(dst, int64(t.Holes), 10), " holes"...)
		}
		if t.Proven {
			dst = append(append(append(dst, ", equal "...), ready.Seconds(t.Equal)...), " ago, "...)
			dst = appendCount(dst, t.Unproven, " change", " changes")
			dst = append(dst, " since then unproven: "...)
		} else {
			dst = append(dst, ", never proven equal: "...)
		}
		dst = append(appendCount(dst, t.Flows, " flow", " flows"), " taken\n"...)
	}
	for _, name := range r.Kept {
		dst = append(append(dst, name...), " keeps its flows\n"...)
	}
	return dst
}

// nameOf returns the name of a node. Without a Cluster clause the peer has none.
func nameOf(t *commit.Taken) string {
	if t.Name == "" {
		return "the peer"
	}
	return t.Name
}

func appendCount(dst []byte, n uint64, one, more string) []byte {
	dst = strconv.AppendUint(dst, n, 10)
	if n == 1 {
		return append(dst, one...)
	}
	return append(dst, more...)
}

// AppendCommitJSON appends the result of a commit as a JSON object and a newline.
func AppendCommitJSON(dst []byte, r *commit.Result) []byte {
	o := object{jsonout.Object{Dst: append(dst, '{')}}
	o.commit(r)
	o.End()
	return append(o.Dst, '\n')
}

// commit appends the members of the result of a commit.
func (o *object) commit(r *commit.Result) {
	o.seconds("took", r.Took)
	o.Uint("missing", r.Missing)
	if r.Tables&cache.FlowTable != 0 {
		o.committed("flows", &r.Flows)
	}
	if r.Tables&cache.ExpectTable != 0 {
		o.committed("expectations", &r.Expects)
	}
	if refused := r.Refused; len(refused) > 0 {
		o.List("refused", len(refused), func(i int) {
			o.Text("reason", refused[i].Reason)
			o.Text("entry", refused[i].Entry)
		})
	}
	if len(r.Taken) > 0 {
		o.List("taken", len(r.Taken), func(i int) {
			t := &r.Taken[i]
			if t.Node != 0 {
				o.Uint("node", uint64(t.Node))
				o.Text("name", t.Name)
			}
			if t.Heard >= 0 {
				o.seconds("last_message", t.Heard)
			}
			o.Uint("holes", uint64(t.Holes))
			if t.Proven {
				o.seconds("last_equal", t.Equal)
				o.Uint("unproven", t.Unproven)
			}
			o.Uint("flows", t.Flows)
		})
	}
	if len(r.Kept) > 0 {
		o.List("kept", len(r.Kept), func(i int) { o.Text("name", r.Kept[i]) })
	}
}
