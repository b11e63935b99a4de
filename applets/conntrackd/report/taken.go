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
		heard, holes, equal := "never heard", "no hole", "never proven equal"
		if t.Heard >= 0 {
			heard = "heard " + ready.Seconds(t.Heard) + " ago"
		}
		if t.Holes > 0 {
			holes = count(uint64(t.Holes), "hole")
		}
		if t.Proven {
			equal = "equal " + ready.Seconds(t.Equal) + " ago, " + count(t.Unproven, "change") + " since then unproven"
		}
		taken := count(t.Flows, "flow") + " taken"
		if t.InKernel {
			taken = "taken, in the kernel already"
		}
		dst = append(dst, nameOf(t)+": "+heard+", "+holes+", "+equal+": "+taken+"\n"...)
	}
	for _, name := range r.Kept {
		dst = append(dst, name+" keeps its flows\n"...)
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

// count returns a number of things.
func count(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.FormatUint(n, 10) + " " + what
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
			o.Bool("in_kernel", t.InKernel)
			if !t.InKernel {
				o.Uint("flows", t.Flows)
			}
		})
	}
	if len(r.Kept) > 0 {
		o.List("kept", len(r.Kept), func(i int) { o.Text("name", r.Kept[i]) })
	}
}
