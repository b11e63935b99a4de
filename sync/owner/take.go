package owner

import "time"

// Times of a Question.
const (
	// questionTime is how long a node has to answer. A node that does not answer loses: VRRP
	// elects another primary within 1 to 4 seconds, and the death of a node is known after 5.
	questionTime = 200 * time.Millisecond
	// questionRepeat is the period of asking again, since a datagram may be lost.
	questionRepeat = 50 * time.Millisecond
)

// Question asks the peers whether they keep their flows, before a takeover that names none. A
// node that answers "mine" keeps its flows, and those of the nodes that it has taken over
// itself. All others lose their flows.
//
// The owner sends a TAKE with Number and Nodes when Due says so, passes each MINE to Answered and
// each TAKE of another node to Asked, and acts on Nodes once Done.
type Question struct {
	self    uint8
	number  uint32
	nodes   Nodes // whose flows are wanted
	kept    Nodes // have answered "mine"
	waiting Nodes // are heard, and have not answered
	next    time.Duration
	until   time.Duration
}

// Ask returns a Question of node self to these peers, of which some are heard. number tells it from
// this node's other questions.
func Ask(now time.Duration, self uint8, number uint32, peers, heard Nodes) *Question {
	return &Question{self: self, number: number, nodes: peers, waiting: peers & heard, next: now, until: now + questionTime}
}

// Number returns the number of the question.
func (q *Question) Number() uint32 { return q.number }

// Nodes returns the nodes whose flows are to be taken, as far as the answers have come.
func (q *Question) Nodes() Nodes { return q.nodes }

// Kept returns the nodes that have answered "mine".
func (q *Question) Kept() Nodes { return q.kept }

// Done reports whether all answers have come, or are no longer waited for.
func (q *Question) Done(now time.Duration) bool { return q.waiting == 0 || now >= q.until }

// Due reports whether the question is to be sent now.
func (q *Question) Due(now time.Duration) bool {
	if now < q.next || q.Done(now) {
		return false
	}
	q.next = now + questionRepeat
	return true
}

// Deadline returns when Due or Done is to be asked next.
func (q *Question) Deadline() time.Duration { return min(q.next, q.until) }

// Answered notes an answer of a node: whether it keeps its flows, and the nodes whose flows it
// has taken. Answers to other questions are ignored.
func (q *Question) Answered(node uint8, number uint32, own bool, taken Nodes) {
	if number != q.number {
		return
	}
	q.waiting &^= NodesOf(node)
	q.nodes &^= taken
	if own {
		q.nodes &^= NodesOf(node)
		q.kept |= NodesOf(node)
	}
}

// Asked notes that another node asks for the flows of nodes at the same time. It returns the
// nodes whose flows this node takes, which the answer has: of two nodes that want the same
// flows that with the lower number gets them.
func (q *Question) Asked(by uint8, nodes Nodes) (taken Nodes) {
	if q.self < by {
		return q.nodes & nodes
	}
	q.nodes &^= nodes &^ NodesOf(by)
	return 0
}
