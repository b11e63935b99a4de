package conf

import (
	"net/netip"
	"slices"
	"strconv"

	"ctbox/internal/feature"
)

// clusterClause is the Cluster clause of Sync.
var clusterClause = clause{
	name: "Cluster",
	ours: true,
	doc: "Replicates with version 2 of the protocol between the nodes named here: sealed with keys, with digests that prove both " +
		"tables equal. It needs Mode FTFW and UDP links, whose own destination is optional then, and all nodes need the same Name " +
		"and keys. docs/migration.md has the way from version 1.",
	value: &group{
		block:     &block{title: "Cluster", syntax: "{ ... }", clauses: clusterClauses},
		instances: true,
		enter:     enterCluster,
		each: func(s scope) []instance {
			if s.cfg.Sync.Cluster == nil {
				return nil
			}
			return []instance{{"Cluster", s, s.cfg.Sync.Cluster}}
		},
		always: true,
	},
}

func enterCluster(p *parser, s scope, at Pos) (scope, *Error) {
	if !feature.Cluster {
		return s, &Error{Pos: at, Text: "this ctbox was built without Cluster"}
	}
	once(p, s, at, &s.cfg.Sync.Cluster, clusterClauses)
	return s, nil
}

var clusterClauses = []clause{
	{
		name:  "Name",
		value: &clusterName{},
		doc:   "The cluster's name. Datagrams of another cluster are refused, also if it has the same keys. Mandatory.",
	},
	{
		name:  "Node",
		value: &clusterNode{},
		doc:   "This node's number and name. Mandatory.",
	},
	{
		name: "Peer",
		live: true,
		doc: "Another node, by its number and name. At least one, at most 15. A node that speaks version 1 of the protocol can be " +
			"the only other node, but not one of several.",
		value: peerGroup(),
	},
	{
		name:  "Key",
		live:  true,
		value: &clusterKeys{},
		doc: "A key and its file, which `conntrackd --genkey` makes. It belongs to root or the daemon's user, and nobody else may " +
			"read it. All nodes have the same key under a number. Datagrams that any of the keys seals are accepted. At most 16. " +
			"Without a Key flows cross the link in the clear.",
	},
	{
		name:  "Send",
		live:  true,
		value: &clusterSend{},
		doc:   "The number of the key that seals what this node sends. Without it, the only key.",
	},
	{
		name:  "AllowPlain",
		live:  true,
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.Cluster.AllowPlain }},
		doc: "on: also accept datagrams that are not sealed, and version 1 of the protocol, from a peer that has sealed none lately. " +
			"It is for a migration only.",
	},
	{
		name:  "HotStandby",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.Cluster.HotStandby }},
		doc: "on: the flows that the peers announce are in this node's kernel, too, so that a takeover has nothing to commit and " +
			"`conntrackd -c` answers at once. net.netfilter.nf_conntrack_max must hold the flows of all nodes; " +
			"`conntrackd --check` shows what it costs. CommitTimeout has no effect on these flows.",
	},
}

// clusterWord parses a name of a cluster or node.
func (p *parser) clusterWord(what string) (string, *Error) {
	expected := "the name of " + what + ": 1 to 63 letters, digits, _, . or -"
	t, err := p.word(expected)
	if err != nil {
		return "", err
	}
	for i := range len(t.text) {
		switch b := t.text[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '_', b == '.', b == '-':
		default:
			return "", p.mismatch(t, expected)
		}
	}
	if len(t.text) > 63 {
		return "", p.mismatch(t, expected)
	}
	return t.text, nil
}

// node parses the number and the name of a node.
func (p *parser) node() (number uint8, name string, err *Error) {
	n, err := p.number(1, MaxNode, "")
	if err != nil {
		return 0, "", err
	}
	name, err = p.clusterWord("a node")
	return uint8(n), name, err
}

// clusterName is the cluster's name.
type clusterName struct{}

func (*clusterName) read(p *parser, c *clause, s scope, at Pos) *Error {
	name, err := p.clusterWord("a cluster")
	if err != nil {
		return err
	}
	field := &s.cfg.Sync.Cluster.Name
	p.mark(field, c, at)
	*field = name
	return nil
}

func (*clusterName) field(s scope) any { return &s.cfg.Sync.Cluster.Name }
func (*clusterName) reset(s scope)     { s.cfg.Sync.Cluster.Name = "" }
func (*clusterName) print(w *printer, c *clause, s scope) {
	w.line(c.name, s.cfg.Sync.Cluster.Name)
}
func (*clusterName) syntax() string   { return "NAME" }
func (*clusterName) standard() string { return "" }

// clusterNode is this node's number and name.
type clusterNode struct{}

func (*clusterNode) read(p *parser, c *clause, s scope, at Pos) *Error {
	number, name, err := p.node()
	if err != nil {
		return err
	}
	cl := s.cfg.Sync.Cluster
	p.mark(&cl.Node, c, at)
	cl.Node, cl.NodeName = number, name
	return nil
}

func (*clusterNode) field(s scope) any { return &s.cfg.Sync.Cluster.Node }
func (*clusterNode) reset(s scope)     { s.cfg.Sync.Cluster.Node, s.cfg.Sync.Cluster.NodeName = 0, "" }
func (*clusterNode) print(w *printer, c *clause, s scope) {
	cl := s.cfg.Sync.Cluster
	w.line(c.name, strconv.Itoa(int(cl.Node)), cl.NodeName)
}
func (*clusterNode) syntax() string   { return "1..16 NAME" }
func (*clusterNode) standard() string { return "" }

// peerGroup is the Peer clause: a new peer each time.
func peerGroup() *group {
	b := &block{title: "Peer", syntax: "1..16 NAME { ... }", clauses: peerClauses}
	return &group{
		block:     b,
		instances: true,
		enter: func(p *parser, s scope, at Pos) (scope, *Error) {
			number, name, err := p.node()
			if err != nil {
				return s, err
			}
			cl := s.cfg.Sync.Cluster
			if len(cl.Peers) == MaxPeers {
				return s, &Error{Pos: at, Text: "too many Peer clauses: a cluster has at most " + strconv.Itoa(MaxPeers) + " peers"}
			}
			if cl.Peers == nil {
				cl.Peers = make([]ClusterPeer, 0, MaxPeers) // never moves: pos has pointers to its elements
			}
			cl.Peers = append(cl.Peers, ClusterPeer{Number: number, Name: name})
			s.peer = &cl.Peers[len(cl.Peers)-1]
			p.cfg.pos[s.peer] = at
			b.reset(s)
			return s, nil
		},
		each: func(s scope) (all []instance) {
			for i := range s.cfg.Sync.Cluster.Peers {
				peer := &s.cfg.Sync.Cluster.Peers[i]
				head := "Peer " + strconv.Itoa(int(peer.Number)) + " " + peer.Name
				all = append(all, instance{head, scope{cfg: s.cfg, peer: peer}, peer})
			}
			return all
		},
		always: true,
	}
}

var peerClauses = []clause{
	{
		name:  "IPv4_Destination_Address",
		value: &peerAddress{},
		doc:   "The node's address on a link: one for each UDP link, in the order of the links.",
	},
	{name: "IPv6_Destination_Address", value: &peerAddress{six: true}, doc: "The same for a link over IPv6."},
	{
		name:  "Port",
		value: &number[uint16]{at: func(s scope) *uint16 { return &s.peer.Port }, max: 65535},
		doc:   "The node's UDP port. Without it, or as 0, it is the link's.",
	},
}

// peerAddress is an address of a peer. The clauses of both families add to one list.
type peerAddress struct{ six bool }

func (v *peerAddress) read(p *parser, c *clause, s scope, at Pos) *Error {
	expected := "an " + family(v.six) + " address of a host"
	t, err := p.word(expected)
	if err != nil {
		return err
	}
	addr, ok := parseHost(t.text)
	if !ok || addr.Is6() != v.six {
		return p.mismatch(t, expected)
	}
	if len(s.peer.Addresses) == MaxLinks {
		return &Error{Pos: at, Text: "too many addresses of a Peer: there are at most " + strconv.Itoa(MaxLinks) + " links"}
	}
	s.peer.Addresses = append(s.peer.Addresses, addr)
	return nil
}

func (v *peerAddress) field(s scope) any { return &s.peer.Addresses }
func (v *peerAddress) reset(s scope)     { s.peer.Addresses = nil }

// print writes the addresses of both families in their order.
func (v *peerAddress) print(w *printer, c *clause, s scope) {
	if v.six {
		return
	}
	for _, a := range s.peer.Addresses {
		w.line(family(a.Is6())+"_Destination_Address", a.String())
	}
}

func (v *peerAddress) syntax() string   { return "ADDRESS" }
func (v *peerAddress) standard() string { return "" }

// clusterKeys is the list to which Key clauses add.
type clusterKeys struct{}

func (*clusterKeys) read(p *parser, c *clause, s scope, at Pos) *Error {
	number, err := p.number(1, 255, "")
	if err != nil {
		return err
	}
	file, err := p.path(maxLogPath, "the path of a Key is longer than 256 characters")
	if err != nil {
		return err
	}
	cl := s.cfg.Sync.Cluster
	if len(cl.Keys) == MaxClusterKeys {
		return &Error{Pos: at, Text: "too many Key clauses: a cluster has at most " + strconv.Itoa(MaxClusterKeys) + " keys"}
	}
	if i := slices.IndexFunc(cl.Keys, func(k ClusterKey) bool { return k.Number == uint8(number) }); i >= 0 {
		return &Error{Pos: at, Text: "Key " + strconv.FormatUint(number, 10) + " is there already, in line " +
			strconv.Itoa(p.cfg.pos[&cl.Keys[i]].Line)}
	}
	if cl.Keys == nil {
		cl.Keys = make([]ClusterKey, 0, MaxClusterKeys) // as Peers
	}
	cl.Keys = append(cl.Keys, ClusterKey{Number: uint8(number), File: file})
	p.cfg.pos[&cl.Keys[len(cl.Keys)-1]] = at
	return nil
}

func (*clusterKeys) field(s scope) any { return &s.cfg.Sync.Cluster.Keys }
func (*clusterKeys) reset(s scope)     { s.cfg.Sync.Cluster.Keys = nil }
func (*clusterKeys) print(w *printer, c *clause, s scope) {
	for _, k := range s.cfg.Sync.Cluster.Keys {
		w.line(c.name, strconv.Itoa(int(k.Number)), k.File)
	}
}
func (*clusterKeys) syntax() string   { return "1..255 /PATH" }
func (*clusterKeys) standard() string { return "" }

// clusterSend is the number of the key that seals.
type clusterSend struct{}

func (*clusterSend) read(p *parser, c *clause, s scope, at Pos) *Error {
	n, err := p.number(1, 255, "")
	if err != nil {
		return err
	}
	field := &s.cfg.Sync.Cluster.Send
	p.mark(field, c, at)
	*field = uint8(n)
	return nil
}

func (*clusterSend) field(s scope) any { return &s.cfg.Sync.Cluster.Send }
func (*clusterSend) reset(s scope)     { s.cfg.Sync.Cluster.Send = 0 }
func (*clusterSend) print(w *printer, c *clause, s scope) {
	if cl := s.cfg.Sync.Cluster; cl.Send != 0 && (w.all || len(cl.Keys) > 1) {
		w.line(c.name, strconv.Itoa(int(cl.Send)))
	}
}
func (*clusterSend) syntax() string   { return "1..255" }
func (*clusterSend) standard() string { return "" }

// finishCluster checks the Cluster clause together with the rest of Sync, and settles Send.
func (p *parser) finishCluster(s *Sync) *Error {
	cl := s.Cluster
	// fail returns the error at the first of fields that the file sets, or else at the clause.
	fail := func(text string, fields ...any) *Error {
		for _, field := range append(fields, cl) {
			if at, ok := p.cfg.pos[field]; ok {
				return &Error{Pos: at, Text: text}
			}
		}
		return &Error{Text: text}
	}
	switch {
	case cl.Name == "":
		return fail("Cluster needs a Name")
	case cl.Node == 0:
		return fail("Cluster needs a Node: this node's number and name")
	case len(cl.Peers) == 0:
		return fail("Cluster needs a Peer")
	case s.Mode != ModeFTFW:
		return fail("Cluster needs Mode FTFW and cannot be used with Mode "+s.Mode.String(), &s.Mode)
	case s.DisableExternalCache:
		return fail("DisableExternalCache cannot be used with Cluster, which needs both caches", &s.DisableExternalCache)
	case len(s.Links) > 0 && s.Links[0].Transport != UDP:
		return fail("Cluster needs UDP links and cannot be used with "+s.Links[0].Transport.String(), s.Links[0])
	}
	for i := range cl.Peers {
		if text := cl.misfit(i, s.Links); text != "" {
			return fail(text, &cl.Peers[i])
		}
	}
	for i, l := range s.Links {
		if l.Destination.IsValid() && !slices.ContainsFunc(cl.Peers, func(peer ClusterPeer) bool { return peer.Addresses[i] == l.Destination }) {
			return fail("the link's destination "+l.Destination.String()+" is not the address of a Peer on this link", &l.Destination, l)
		}
	}
	switch sends := func(k ClusterKey) bool { return k.Number == cl.Send }; {
	case cl.Send == 0 && len(cl.Keys) == 1:
		cl.Send = cl.Keys[0].Number
	case cl.Send == 0 && len(cl.Keys) > 1:
		return fail("Cluster has " + strconv.Itoa(len(cl.Keys)) + " keys and needs Send with the number of the one that seals")
	case cl.Send != 0 && !slices.ContainsFunc(cl.Keys, sends):
		return fail("Send "+strconv.Itoa(int(cl.Send))+" is the number of no Key", &cl.Send)
	}
	return nil
}

// misfit returns why a peer does not fit the node, the peers before it or the links, or "".
func (cl *Cluster) misfit(index int, links []*Link) string {
	peer := &cl.Peers[index]
	name := "Peer " + strconv.Itoa(int(peer.Number)) + " " + peer.Name
	if peer.Number == cl.Node {
		return name + " has the number of this Node"
	}
	for i := range cl.Peers[:index] {
		if other := &cl.Peers[i]; other.Number == peer.Number {
			return name + " has the number of Peer " + strconv.Itoa(int(other.Number)) + " " + other.Name
		}
	}
	if len(links) > 0 && len(peer.Addresses) != len(links) {
		return name + " has " + strconv.Itoa(len(peer.Addresses)) + " addresses and needs one for each UDP link, of which there are " +
			strconv.Itoa(len(links))
	}
	for i, l := range links {
		at := peer.on(i, l)
		switch {
		case at.Addr().Is6() != l.Is6():
			return name + ": " + at.Addr().String() + " is not of the family of its link, " + family(l.Is6())
		case at == netip.AddrPortFrom(l.Address, l.Port):
			return name + ": " + at.Addr().String() + " is this node's own address"
		}
		for j := range cl.Peers[:index] {
			if other := &cl.Peers[j]; other.on(i, l).Addr() == at.Addr() {
				return name + ": " + at.Addr().String() + " is the address of Peer " + strconv.Itoa(int(other.Number)) + " " + other.Name
			}
		}
	}
	return ""
}

// on returns the peer's address and port on the link with an index.
func (peer *ClusterPeer) on(index int, l *Link) netip.AddrPort {
	port := peer.Port
	if port == 0 {
		port = l.Port
	}
	return netip.AddrPortFrom(peer.Addresses[index], port)
}
