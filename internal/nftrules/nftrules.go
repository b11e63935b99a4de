// Package nftrules reads the rules of nf_tables, which are also those of iptables-nft, as
// far as connection tracking is concerned.
package nftrules

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"ctbox/internal/nlattr"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// The dumps of linux/netfilter/nf_tables.h.
const (
	DumpChains nl.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN
	DumpRules  nl.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
)

// The flags of xt_ct_target_info (linux/netfilter/xt_CT.h) that name a direction.
const oneWayFlags = 1<<2 | 1<<3

const exprData = 2 // NFTA_EXPR_DATA

// SetsOneWayZone reports whether a rule, from its attributes, gives flows a zone of one
// direction: `ct original zone set`, `-j CT --zone-orig`, and the reply's.
func SetsOneWayZone(rule []byte) bool {
	found := false
	nlattr.Nested(rule, unix.NFTA_RULE_EXPRESSIONS, func(_ uint16, expression []byte) {
		name := ""
		nlattr.Each(expression, func(typ uint16, value []byte) {
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
	nlattr.Each(ct, func(typ uint16, value []byte) {
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
	nlattr.Each(target, func(typ uint16, value []byte) {
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
