package conntrack

import (
	"strconv"

	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// topKind is something that flows can be counted by.
type topKind struct {
	word   string // of --key, and in the view
	letter byte
	key    func(k *topKey, f *ctnetlink.Flow)
	text   func(dst []byte, k *topKey) []byte
	json   func(dst []byte, k *topKey) []byte // members, the first without a comma
}

// topKinds are the words of --key and their letters in the view.
var topKinds = [...]topKind{
	{"source", 's', func(k *topKey, f *ctnetlink.Flow) { k.addr, k.family = f.Orig.Src, f.Orig.Family }, addrText,
		func(dst []byte, k *topKey) []byte { return addrJSON(dst, "source", k) }},
	{"destination", 'd', func(k *topKey, f *ctnetlink.Flow) { k.addr, k.family = f.Orig.Dst, f.Orig.Family }, addrText,
		func(dst []byte, k *topKey) []byte { return addrJSON(dst, "destination", k) }},
	{"port", 'p', portKey, portText, portJSON},
	{"protocol", 'l', func(k *topKey, f *ctnetlink.Flow) { k.proto, _ = f.Proto() }, protoText, protoJSON},
	{"zone", 'z', zoneKey, numberText, func(dst []byte, k *topKey) []byte { return numberJSON(dst, "zone", k) }},
	{"mark", 'm', func(k *topKey, f *ctnetlink.Flow) { k.number = present(f.Has&ctnetlink.HasMark != 0, f.Mark) }, numberText,
		func(dst []byte, k *topKey) []byte { return numberJSON(dst, "mark", k) }},
}

// topSorts are the columns: the words of --key behind the comma, and the
// letters in the view.
var topSorts = [topColumns]struct {
	word, title string
	letter      byte
}{
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

func zoneKey(k *topKey, f *ctnetlink.Flow) {
	switch {
	case f.Has&ctnetlink.HasZone != 0:
		k.number = uint32(f.Zone)
	case f.Orig.Has&ctnetlink.TupleZone != 0:
		k.number = uint32(f.Orig.Zone)
	}
}

func addrText(dst []byte, k *topKey) []byte { return format.AppendAddr(dst, k.family, &k.addr) }

func addrJSON(dst []byte, name string, k *topKey) []byte {
	return append(addrText(join(dst, `"`, name, `":"`), k), '"')
}

func numberText(dst []byte, k *topKey) []byte { return strconv.AppendUint(dst, uint64(k.number), 10) }

func numberJSON(dst []byte, name string, k *topKey) []byte {
	return numberText(join(dst, `"`, name, `":`), k)
}

func protoText(dst []byte, k *topKey) []byte {
	if name := ctnetlink.ProtoName(k.proto); name != "unknown" {
		return append(dst, name...)
	}
	return strconv.AppendUint(dst, uint64(k.proto), 10)
}

func protoJSON(dst []byte, k *topKey) []byte {
	dst = join(dst, `"proto":`, strconv.Itoa(int(k.proto)))
	if name := ctnetlink.ProtoName(k.proto); name != "unknown" {
		dst = join(dst, `,"proto_name":"`, name, `"`)
	}
	return dst
}

func portText(dst []byte, k *topKey) []byte {
	if k.number != noPort {
		dst = append(numberText(dst, k), '/')
	}
	return protoText(dst, k)
}

func portJSON(dst []byte, k *topKey) []byte {
	if k.number != noPort {
		dst = append(numberJSON(dst, "port", k), ',')
	}
	return protoJSON(dst, k)
}
