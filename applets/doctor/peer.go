package doctor

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/internal/nftrules"
	"ctbox/internal/nlattr"
	"ctbox/nl"
)

// statsNetwork is the control socket's request of `conntrackd -s network`.
const statsNetwork = 28

// askDaemon returns the daemon's answer to `conntrackd -s network`.
func (h *host) askDaemon() (string, error) {
	var d net.Dialer
	conn, err := d.DialUnix(h.ctx, "unix", nil, &net.UnixAddr{Net: "unix", Name: filepath.Join(h.root, h.cfg.General.UNIXPath)})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(binary.NativeEndian.AppendUint32(nil, statsNetwork)); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	if len(text) > 0 {
		err = nil // a daemon that has answered may reset the connection
	}
	return string(text), err
}

// silent is the time in seconds after which a peer is missing. Every node sends something each
// second, except in mode ALARM.
const silent = 5

// checkPeer asks the running daemon when it last received a message from each peer. Without a
// daemon it reports nothing.
func checkPeer(h *host, r *report) {
	if !h.replicates() || h.cfg.General.UNIXPath == "" {
		return
	}
	text, err := h.askDaemon()
	if err != nil {
		return
	}
	_, peers, ours := strings.Cut(text, "\npeers:\n")
	peers, paths, _ := strings.Cut(peers, "\npaths to peers:\n")
	defer checkPaths(r, paths)
	if !ours {
		r.add(Note, "the running daemon does not say when it heard its peer", "conntrack-tools' does not know", "conntrackd -s network, twice: do its numbers grow?")
		return
	}
	alarm := h.cfg.Sync.Mode == conf.ModeALARM
	const why = "what happens there does not reach this node, and a takeover would lose it"
	fix := "conntrackd -s on the other node; do both firewalls accept the port? nft list ruleset"
	// With several links, a peer has several addresses and uses one of them.
	one, heard := len(h.cfg.Sync.Links) > 1, false
	newest := uint64(1<<64 - 1)
	for line := range strings.Lines(peers) {
		if _, ago, ok := heardLine(line); ok {
			newest = min(newest, ago)
		}
	}
	for line := range strings.Lines(peers) {
		peer, ago, ok := heardLine(line)
		if !ok || one && ago > newest {
			continue
		}
		heard = true
		seen := "the peer " + peer + " was last heard " + decimal(ago) + " s ago"
		switch {
		case ago < silent:
			r.ok(seen)
		case alarm:
			r.add(Note, seen, "in mode ALARM a node sends its flows again within its RefreshTime, and nothing without flows", "")
		default:
			r.add(Error, seen, why, fix)
		}
	}
	switch {
	case heard:
	case alarm:
		r.add(Note, "no peer has been heard", "in mode ALARM a node without flows sends nothing", fix)
	default:
		r.add(Error, "no peer has been heard", why, fix)
	}
}

// checkPaths reports what the daemon knows of the way to each peer.
func checkPaths(r *report, paths string) {
	for line := range strings.Lines(paths) {
		peer, state, ok := strings.Cut(strings.Trim(line, "\t\n"), "\t")
		switch {
		case !ok:
		case strings.HasPrefix(state, "no message"):
			r.add(Error, "no message of this node arrives at the peer "+peer,
				"the peer hears nothing although its own messages arrive here: a takeover there would lose all flows",
				"do both firewalls accept the port? nft list ruleset, on both nodes")
		case strings.Contains(state, "but no packet of "):
			_, size, _ := strings.Cut(state, "but no packet of ")
			r.add(Error, "packets of "+size+" do not arrive at the peer "+peer+", smaller ones do",
				"messages under load are in full packets, which are lost",
				"give the link's interface the MTU that the path carries: ip link set INTERFACE mtu N; ping -M do -s N "+peer)
		case strings.HasPrefix(state, "not known"):
			r.add(Note, "whether messages arrive at the peer "+peer+" is not known", "conntrack-tools' conntrackd does not say so, and can't answer a test",
				"conntrackd -s network on the other node, twice: do its numbers grow?")
		default:
			r.ok("the peer " + peer + ": " + state)
		}
	}
}

// heardLine parses "\tADDRESS\tlast heard N s ago".
func heardLine(line string) (peer string, ago uint64, ok bool) {
	peer, rest, ok := strings.Cut(strings.TrimPrefix(line, "\t"), "\tlast heard ")
	if !ok || strings.Contains(rest, "ignored") {
		return "", 0, false
	}
	number, _, _ := strings.Cut(rest, " ")
	ago, err := strconv.ParseUint(number, 10, 64)
	return peer, ago, err == nil
}

// checkSenders looks for a rule that lets only one user send to the port of a link. The
// protocol authenticates nothing: to the peer, every local user who sends from this
// host's address is the daemon.
func checkSenders(h *host, r *report) {
	if !h.replicates() || h.conn == nil {
		return
	}
	s, err := h.ruleset()
	if err != nil {
		return // checkRules has said so
	}
	asked := map[uint16]bool{} // a file's links are all of one protocol
	for _, l := range h.cfg.Sync.Links {
		if asked[l.Port] {
			continue
		}
		asked[l.Port] = true
		found := false
		_, err := h.conn.Dump(h.ctx, nl.Dump{Type: nftrules.DumpRules}, func(m *nl.Message) error {
			found = found || limitsSenders(m.Attrs, l.Port)
			return nil
		})
		proto := "udp"
		if l.Transport == conf.TCP {
			proto = "tcp"
		}
		match := proto + " dport " + decimal(uint64(l.Port))
		switch {
		case err != nil:
			return
		case found:
			r.ok("a rule checks which user sends to " + match)
		case len(s.legacy) > 0:
			r.add(Note, "no rule of nftables checks which user sends to "+match+"; those of iptables-legacy are not read",
				everyUser, "iptables-legacy-save | grep owner")
		default:
			r.add(Note, "no rule checks which user sends to "+match, everyUser,
				`nft 'add table inet sync; add chain inet sync out { type filter hook output priority 0; }; add rule inet sync out `+
					match+` meta skuid != 0 drop'`)
		}
	}
}

const everyUser = "messages are not authenticated: every local user can send the peer what it takes for this daemon's"

// Attributes and values of nf_tables' expressions (linux/netfilter/nf_tables.h).
const (
	metaKey   = 2 // NFTA_META_KEY
	metaSkUID = 10
	cmpData   = 3 // NFTA_CMP_DATA
	dataValue = 1 // NFTA_DATA_VALUE
)

// limitsSenders reports whether a rule, from its attributes, looks at the user who has a
// packet's socket, and at that port or at no single one.
func limitsSenders(rule []byte, port uint16) bool {
	user, ports, this := false, false, false
	nlattr.Nested(rule, ruleExpressions, func(_ uint16, expression []byte) {
		name := ""
		nlattr.Each(expression, func(typ uint16, value []byte) {
			switch {
			case typ == exprName: // comes before the data
				name = unix.ByteSliceToString(value)
			case typ != exprData:
			case name == "meta":
				nlattr.Each(value, func(typ uint16, key []byte) {
					user = user || typ == metaKey && number32(key) == metaSkUID
				})
			case name == "match":
				nlattr.Each(value, func(typ uint16, match []byte) {
					user = user || typ == xtName && unix.ByteSliceToString(match) == "owner"
				})
			case name == "cmp":
				nlattr.Nested(value, cmpData, func(typ uint16, data []byte) {
					if typ == dataValue && len(data) == 2 {
						ports = true
						this = this || binary.BigEndian.Uint16(data) == port
					}
				})
			}
		})
	})
	return user && (this || !ports)
}
