// Package nftrules reads the rules of nf_tables, which are also those of iptables-nft, as
// far as connection tracking is concerned.
package nftrules

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// The dumps of linux/netfilter/nf_tables.h.
const (
	DumpChains nl.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN
	DumpRules  nl.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
)

// Attributes calls each for every netlink attribute in b, as far as they are whole. The
// type comes without its flags.
//
//go:noinline
func Attributes(b []byte, each func(typ uint16, value []byte)) {
	const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	for len(b) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&^flags, b[unix.SizeofNlAttr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// In calls each for the attributes inside those of type nest.
//
//go:noinline
func In(b []byte, nest uint16, each func(typ uint16, value []byte)) {
	Attributes(b, func(typ uint16, value []byte) {
		if typ == nest {
			Attributes(value, each)
		}
	})
}

// The flags of xt_ct_target_info (linux/netfilter/xt_CT.h) that name a direction.
const oneWayFlags = 1<<2 | 1<<3

const exprData = 2 // NFTA_EXPR_DATA

// SetsOneWayZone reports whether a rule, from its attributes, gives flows a zone of one
// direction: `ct original zone set`, `-j CT --zone-orig`, and the reply's.
func SetsOneWayZone(rule []byte) bool {
	found := false
	In(rule, unix.NFTA_RULE_EXPRESSIONS, func(_ uint16, expression []byte) {
		name := ""
		Attributes(expression, func(typ uint16, value []byte) {
			switch {
			case typ == unix.NFTA_EXPR_NAME: // comes before the data
				name = unix.ByteSliceToString(value)
			case typ != exprData:
			case name == "ct":
				found = found || expressionSets(value)
			case name == "target":
				found = found || targetSets(value)
			}
		})
	})
	return found
}

func expressionSets(ct []byte) bool {
	zone, direction, set := false, false, false
	Attributes(ct, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_CT_KEY:
			zone = len(value) == 4 && binary.BigEndian.Uint32(value) == unix.NFT_CT_ZONE
		case unix.NFTA_CT_DIRECTION:
			direction = true
		case unix.NFTA_CT_SREG:
			set = true
		}
	})
	return zone && direction && set
}

func targetSets(target []byte) bool {
	ct, oneWay := false, false
	Attributes(target, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_TARGET_NAME:
			ct = unix.ByteSliceToString(value) == "CT"
		case unix.NFTA_TARGET_INFO:
			oneWay = len(value) >= 2 && binary.NativeEndian.Uint16(value)&oneWayFlags != 0
		}
	})
	return ct && oneWay
}

// OneWayZones counts the rules of this network namespace that give flows a zone of one
// direction.
func OneWayZones(ctx context.Context) (rules int, err error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_, err = c.Dump(ctx, ctnetlink.Dump{Type: DumpRules}.Request(), func(m *nl.Message) error {
		if SetsOneWayZone(m.Attrs) {
			rules++
		}
		return nil
	})
	return rules, err
}
