package conntrack

import (
	"strconv"
	"time"

	"ctbox/internal/jsonout"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// topKey is what flows are counted by: an address with its family, or a number, which
// may be a port with its protocol.
type topKey struct {
	addr   ctnetlink.Addr
	number uint32
	family uint8
	proto  uint8
}

// tally is a sum over flows in the table, or over events. Packets and bytes are those of
// both directions.
type tally struct {
	flows, ended   uint64
	packets, bytes uint64

	owed                   int64  // of a table: see balance
	owedPackets, owedBytes uint64 // of a table: see counted
}

func (t *tally) count(f *ctnetlink.Flow) {
	if f.Has&ctnetlink.HasCountersOrig != 0 {
		t.packets += f.CountersOrig.Packets
		t.bytes += f.CountersOrig.Bytes
	}
	if f.Has&ctnetlink.HasCountersReply != 0 {
		t.packets += f.CountersReply.Packets
		t.bytes += f.CountersReply.Bytes
	}
}

// maxTopKeys bounds the memory of a tallies. The kernel lists its table in a practically
// random order, so a key with one in a thousand flows is missed with a probability of
// one in ten million.
const maxTopKeys = 16384

// tallies has a tally for each key. Its memory is reused and grows with the number of
// keys, up to maxTopKeys, never with the flows.
type tallies struct {
	index   map[topKey]uint32
	keys    []topKey
	rows    []tally
	all     tally // of all keys
	left    tally // of those beyond maxTopKeys
	counted bool  // some flow had counters
}

func (t *tallies) reset() {
	if t.index == nil {
		t.index = make(map[topKey]uint32)
	}
	clear(t.index)
	t.keys, t.rows = t.keys[:0], t.rows[:0]
	t.all, t.left, t.counted = tally{}, tally{}, false
}

// at returns the tally of k, or the common one beyond maxTopKeys.
func (t *tallies) at(k *topKey) *tally {
	i, ok := t.index[*k]
	if ok {
		return &t.rows[i]
	}
	if len(t.rows) >= maxTopKeys {
		return &t.left
	}
	t.index[*k] = uint32(len(t.rows))
	t.keys, t.rows = append(t.keys, *k), append(t.rows, tally{})
	return &t.rows[len(t.rows)-1]
}

// find returns the tally of k, a zero one if k was not counted, and whether that is
// certain: keys beyond maxTopKeys are not known.
func (t *tallies) find(k *topKey) (tally, bool) {
	if i, ok := t.index[*k]; ok {
		return t.rows[i], true
	}
	return tally{}, t.left == tally{}
}

// flow counts a flow of the table.
func (t *tallies) flow(k *topKey, f *ctnetlink.Flow) {
	t.counted = t.counted || f.Has&ctnetlink.HasCountersOrig != 0
	for _, row := range [...]*tally{t.at(k), &t.all} {
		row.flows++
		row.count(f)
	}
}

// event counts a flow that began, or one that ended with its counters. k is nil if the
// flow's key is unknown, since it changes: the flow then counts for all flows only.
func (t *tallies) event(k *topKey, f *ctnetlink.Flow, ended bool) {
	t.counted = t.counted || ended && f.Has&ctnetlink.HasCountersOrig != 0
	rows := [...]*tally{&t.all, &t.all}
	n := 1
	if k != nil {
		rows[0], n = t.at(k), 2
	}
	for _, row := range rows[:n] {
		if !ended {
			row.flows++
			continue
		}
		row.ended++
		row.count(f)
	}
}

// topColumn is one of the numbers of a row.
type topColumn uint8

// The columns, in the order in which they are shown. All but the flows are rates per
// second.
const (
	topFlows topColumn = iota
	topNew
	topEnded
	topPackets
	topBytes
	topColumns
)

// topRow is a key with its numbers.
type topRow struct {
	key    topKey
	values [topColumns]float64
}

// balance returns the number of flows that have begun and not ended according to the
// events, less those in the table. It is not 0 when flows end without an event, as those
// do that began before a listener existed (nf_conntrack_events=2), when events were
// lost, and temporarily when the table was read before or after the events of a flow.
func balance(now, before, events tally) int64 {
	return before.owed + int64(events.flows-events.ended) - int64(now.flows-before.flows)
}

// rates computes a row from the table now and before, and from the events between. An
// increase of the balance are flows that ended without an event, a decrease flows that
// began without one; so an event that arrives late is not counted twice.
func rates(now, before, events tally, seconds float64) (v [topColumns]float64) {
	v[topFlows] = float64(now.flows)
	if seconds <= 0 {
		return v
	}
	owed := balance(now, before, events)
	began := int64(events.flows) + max(-owed, 0) - max(-before.owed, 0)
	ended := int64(events.ended) + max(owed, 0) - max(before.owed, 0)
	v[topNew] = float64(max(began, 0)) / seconds
	v[topEnded] = float64(max(ended, 0)) / seconds
	packets, _ := counted(now.packets, before.packets, events.packets, before.owedPackets)
	bytes, _ := counted(now.bytes, before.bytes, events.bytes, before.owedBytes)
	v[topPackets] = float64(packets) / seconds
	v[topBytes] = float64(bytes) / seconds
	return v
}

// counted returns what was counted between two readings of a counter: the difference of
// the tables, and the final values of flows that ended, which are in no table. A flow
// that has left the table before its event has arrived takes away what was counted
// before: what exceeds the traffic of the others is owed, and subtracted from the event
// that comes next.
func counted(now, before, ended, owed uint64) (sum, stillOwed uint64) {
	now += ended - min(ended, owed)
	if now < before {
		return 0, before - now
	}
	return now - before, 0
}

// settle carries what is owed over from the table before. A key whose flows have all
// ended stays for one more reading, for the events that have not arrived.
func (t *tallies) settle(before, events *tallies) {
	t.all.settle(&before.all, &events.all)
	for i := range t.rows {
		if was, known := before.find(&t.keys[i]); known {
			happened, _ := events.find(&t.keys[i])
			t.rows[i].settle(&was, &happened)
		}
	}
	for i := range before.rows {
		k := &before.keys[i]
		if _, ok := t.index[*k]; ok || before.rows[i].flows == 0 || len(t.rows) >= maxTopKeys {
			continue
		}
		var gone tally
		happened, _ := events.find(k)
		gone.settle(&before.rows[i], &happened)
		if gone != (tally{}) {
			*t.at(k) = gone
		}
	}
}

func (t *tally) settle(before, events *tally) {
	t.owed = balance(*t, *before, *events)
	_, t.owedPackets = counted(t.packets, before.packets, events.packets, before.owedPackets)
	_, t.owedBytes = counted(t.bytes, before.bytes, events.bytes, before.owedBytes)
}

// size returns the number of keys that have flows.
func (t *tallies) size() (n int) {
	for i := range t.rows {
		if t.rows[i].flows > 0 {
			n++
		}
	}
	return n
}

// topView is the result of a refresh.
type topView struct {
	kind    uint8 // index in topKinds
	drill   []topStep
	sort    topColumn
	at      time.Time
	seconds float64 // since the refresh before; 0: no rates yet
	keys    int
	all     [topColumns]float64
	left    uint64 // flows whose keys were not kept
	lost    uint64 // events, since the beginning
	counted bool   // some flow had counters
	rows    []topRow
}

// best fills v.rows with the n keys that have the most of v.sort, the most
// first, of equal ones the smaller key first.
func (v *topView) best(now, before, events *tallies, n int) {
	v.rows = v.rows[:0]
	for i := range now.rows {
		if now.rows[i].flows == 0 {
			continue
		}
		k := &now.keys[i]
		was, known := before.find(k)
		seconds := v.seconds
		if !known {
			seconds = 0
		}
		happened, _ := events.find(k)
		v.insert(topRow{*k, rates(now.rows[i], was, happened, seconds)}, n)
	}
	// Keys whose flows have all ended.
	for _, t := range [...]*tallies{events, before} {
		for i := range t.rows {
			k := &t.keys[i]
			if j, ok := now.index[*k]; ok && now.rows[j].flows > 0 || v.seconds == 0 || now.left.flows > 0 {
				continue
			}
			was, known := before.find(k)
			happened, _ := events.find(k)
			if _, again := events.index[*k]; known && !(again && t == before) {
				v.insert(topRow{*k, rates(tally{}, was, happened, v.seconds)}, n)
			}
		}
	}
}

// insert inserts a row at its place among the best n.
func (v *topView) insert(r topRow, n int) {
	i := len(v.rows)
	for i > 0 && v.before(&r, &v.rows[i-1]) {
		i--
	}
	if i >= n {
		return
	}
	if len(v.rows) < n {
		v.rows = append(v.rows, topRow{})
	}
	copy(v.rows[i+1:], v.rows[i:])
	v.rows[i] = r
}

func (v *topView) before(a, b *topRow) bool {
	if x, y := a.values[v.sort], b.values[v.sort]; x != y {
		return x > y
	}
	if x, y := a.values[topFlows], b.values[topFlows]; x != y {
		return x > y
	}
	if a.key.addr != b.key.addr {
		return string(a.key.addr[:]) < string(b.key.addr[:])
	}
	if a.key.number != b.key.number {
		return a.key.number < b.key.number
	}
	return a.key.proto < b.key.proto
}

// topKind is a kind of key that flows can be counted by.
type topKind struct {
	word   string // of --key, and in the view
	letter byte
	key    func(k *topKey, f *ctnetlink.Flow)
	text   func(dst []byte, k *topKey) []byte
	json   func(o *jsonout.Object, k *topKey) // members
	next   uint8                              // the kind to go on with when a key is entered
	// changes reports that a flow's key changes while it lives, so that the keys of events
	// say nothing: flows that come to a key and leave it are counted from the tables.
	changes bool
}

// Indexes in topKinds.
const (
	topSource = iota
	topDestination
	topPort
	topProtocol
	topZone
	topMark
	topState
	topFamily
)

// topKinds are the words of --key and their letters in the view.
var topKinds = [...]topKind{
	topSource: {"source", 's', func(k *topKey, f *ctnetlink.Flow) { k.addr, k.family = f.Orig.Src, f.Orig.Family }, addrText,
		func(o *jsonout.Object, k *topKey) { addrJSON(o, "source", k) }, topDestination, false},
	topDestination: {"destination", 'd', func(k *topKey, f *ctnetlink.Flow) { k.addr, k.family = f.Orig.Dst, f.Orig.Family }, addrText,
		func(o *jsonout.Object, k *topKey) { addrJSON(o, "destination", k) }, topPort, false},
	topPort:     {"port", 'p', portKey, portText, portJSON, topSource, false},
	topProtocol: {"protocol", 'l', func(k *topKey, f *ctnetlink.Flow) { k.proto, _ = f.Proto() }, protoText, protoJSON, topPort, false},
	topZone:     {"zone", 'z', zoneKey, numberText, func(o *jsonout.Object, k *topKey) { o.Uint("zone", uint64(k.number)) }, topSource, false},
	topMark: {"mark", 'm', func(k *topKey, f *ctnetlink.Flow) { k.number = orZero(f.Has&ctnetlink.HasMark != 0, f.Mark) }, numberText,
		func(o *jsonout.Object, k *topKey) { o.Uint("mark", uint64(k.number)) }, topSource, false},
	topState: {"state", 't', stateKey, stateText, func(o *jsonout.Object, k *topKey) {
		protoJSON(o, k)
		o.Token("state", keyState(k))
	}, topSource, true},
	topFamily: {"family", 'a', func(k *topKey, f *ctnetlink.Flow) { k.family = f.Family() },
		func(dst []byte, k *topKey) []byte { return append(dst, ctnetlink.FamilyName(k.family)...) },
		func(o *jsonout.Object, k *topKey) { o.Token("family", ctnetlink.FamilyName(k.family)) }, topProtocol, false},
}

// replied is the number of a flow's state where the protocol has no states: whether both
// directions have had packets.
const (
	stateUnreplied = 1<<16 + iota
	stateReplied
)

func stateKey(k *topKey, f *ctnetlink.Flow) {
	k.proto, _ = f.Proto()
	switch {
	case f.Has&ctnetlink.HasTCPState != 0:
		k.number = uint32(f.TCPState)
	case f.Has&ctnetlink.HasSCTPState != 0:
		k.number = uint32(f.SCTPState)
	case f.Has&ctnetlink.HasDCCPState != 0:
		k.number = uint32(f.DCCPState)
	case f.Status&ctnetlink.StatusSeenReply != 0:
		k.number = stateReplied
	default:
		k.number = stateUnreplied
	}
}

// keyState returns the name of the state in a key.
func keyState(k *topKey) string {
	names := ctnetlink.StateNames(k.proto)
	switch {
	case k.number == stateReplied:
		return "REPLIED"
	case k.number == stateUnreplied:
		return unreplied
	case int(k.number) < len(names):
		return names[k.number]
	}
	return "NONE"
}

func stateText(dst []byte, k *topKey) []byte {
	return append(append(protoText(dst, k), ' '), keyState(k)...)
}

// topSort is a column that rows can be sorted by.
type topSort struct {
	word, title string
	letter      byte
}

// topSorts are the columns: the words of --key behind the comma, and the
// letters in the view.
var topSorts = [topColumns]topSort{
	topFlows:   {"flows", "FLOWS", 'f'},
	topNew:     {"new", "NEW/s", 'n'},
	topEnded:   {"ended", "ENDED/s", 'e'},
	topPackets: {"packets", "PACKETS/s", 'k'},
	topBytes:   {"bytes", "BYTES/s", 'b'},
}

// noPort is the number of a flow without a destination port.
const noPort = 1 << 16

func portKey(k *topKey, f *ctnetlink.Flow) {
	k.proto, _ = f.Proto()
	k.number = noPort
	if f.Orig.Has&ctnetlink.TupleDstPort != 0 {
		k.number = uint32(f.Orig.DstPort)
	}
}

func zoneKey(k *topKey, f *ctnetlink.Flow) { k.number = uint32(flowZone(f)) }

func addrText(dst []byte, k *topKey) []byte { return format.AppendAddr(dst, k.family, &k.addr) }

func addrJSON(o *jsonout.Object, name string, k *topKey) {
	o.Name(name)
	o.Dst = append(addrText(append(o.Dst, '"'), k), '"')
}

func numberText(dst []byte, k *topKey) []byte { return strconv.AppendUint(dst, uint64(k.number), 10) }

func protoText(dst []byte, k *topKey) []byte {
	if name := ctnetlink.ProtoName(k.proto); name != "unknown" {
		return append(dst, name...)
	}
	return strconv.AppendUint(dst, uint64(k.proto), 10)
}

func protoJSON(o *jsonout.Object, k *topKey) {
	o.Uint("proto", uint64(k.proto))
	if name := ctnetlink.ProtoName(k.proto); name != "unknown" {
		o.Token("proto_name", name)
	}
}

func portText(dst []byte, k *topKey) []byte {
	if k.number != noPort {
		dst = append(numberText(dst, k), '/')
	}
	return protoText(dst, k)
}

func portJSON(o *jsonout.Object, k *topKey) {
	if k.number != noPort {
		o.Uint("port", uint64(k.number))
	}
	protoJSON(o, k)
}
