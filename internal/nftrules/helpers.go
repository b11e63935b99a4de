package nftrules

import (
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"ctbox/internal/nlattr"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// DumpObjects is the dump of nf_tables' objects.
const DumpObjects nl.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETOBJ

// Attributes of linux/netfilter/nf_tables.h and the place of the helper's name in
// xt_ct_target_info (linux/netfilter/xt_CT.h).
const (
	objTable, objName, objType, objData = 1, 2, 3, 4 // NFTA_OBJ_…
	ctHelperName                        = 1          // NFTA_CT_HELPER_NAME
	ruleTable                           = 1          // NFTA_RULE_TABLE
	refType, refName, refSet            = 1, 2, 4    // NFTA_OBJREF_IMM_TYPE, IMM_NAME, SET_NAME
	targetHelper, targetHelperLen       = 12, 16
)

// object is an nf_tables object of type ct helper.
type object struct {
	family      uint8
	table, name string
}

// AttachedHelpers returns the names of the helpers that rules of c's network namespace assign to
// flows: `ct helper set` in nft, `-j CT --helper` in iptables-nft. Where a rule chooses among the
// objects of a map, it returns all of the table's.
func AttachedHelpers(ctx context.Context, c *nl.Conn) (map[string]bool, error) {
	objects := make(map[object]string)
	_, err := c.Dump(ctx, ctnetlink.Dump{Type: DumpObjects}.Request(), func(m *nl.Message) error {
		if o, helper := helperObject(m.Attrs); helper != "" {
			o.family = m.Family
			objects[o] = helper
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	attached := make(map[string]bool)
	_, err = c.Dump(ctx, ctnetlink.Dump{Type: DumpRules}.Request(), func(m *nl.Message) error {
		attaches(m.Attrs, func(table, name, helper string) {
			if helper != "" {
				attached[helper] = true
				return
			}
			for o, helper := range objects {
				if o.family == m.Family && o.table == table && (name == "" || o.name == name) {
					attached[helper] = true
				}
			}
		})
		return nil
	})
	return attached, err
}

// helperObject returns an object and its helper's name, "" for objects of other types.
func helperObject(attrs []byte) (o object, helper string) {
	isHelper := false
	nlattr.Each(attrs, func(typ uint16, value []byte) {
		switch typ {
		case objTable:
			o.table = unix.ByteSliceToString(value)
		case objName:
			o.name = unix.ByteSliceToString(value)
		case objType:
			isHelper = len(value) == 4 && binary.BigEndian.Uint32(value) == unix.NFT_OBJECT_CT_HELPER
		}
	})
	if isHelper {
		nlattr.Nested(attrs, objData, func(typ uint16, value []byte) {
			if typ == ctHelperName {
				helper = unix.ByteSliceToString(value)
			}
		})
	}
	return o, helper
}

// attaches calls each for every expression of a rule, from its attributes, that assigns a
// helper: with the helper's name, or with the table and name of its object. No name at all is a
// map of objects.
func attaches(rule []byte, each func(table, name, helper string)) {
	table := ""
	nlattr.Each(rule, func(typ uint16, value []byte) {
		if typ == ruleTable {
			table = unix.ByteSliceToString(value)
		}
	})
	nlattr.Nested(rule, unix.NFTA_RULE_EXPRESSIONS, func(_ uint16, expression []byte) {
		kind := ""
		nlattr.Each(expression, func(typ uint16, value []byte) {
			switch {
			case typ == unix.NFTA_EXPR_NAME: // comes before the data
				kind = unix.ByteSliceToString(value)
			case typ != exprData:
			case kind == "objref":
				reference(value, func(name string) { each(table, name, "") })
			case kind == "target":
				if helper := targetsHelper(value); helper != "" {
					each(table, "", helper)
				}
			}
		})
	})
}

// reference calls each if an expression refers to a ct helper object, or to a map, whose name
// is "".
func reference(objref []byte, each func(name string)) {
	kind, name, set := 0, "", false
	nlattr.Each(objref, func(typ uint16, value []byte) {
		switch typ {
		case refType:
			if len(value) == 4 {
				kind = int(binary.BigEndian.Uint32(value))
			}
		case refName:
			name = unix.ByteSliceToString(value)
		case refSet:
			set = true
		}
	})
	if kind == unix.NFT_OBJECT_CT_HELPER && name != "" || set {
		each(name)
	}
}

// targetsHelper returns the helper that a target of iptables-nft assigns, or "".
func targetsHelper(target []byte) (helper string) {
	ct := false
	nlattr.Each(target, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_TARGET_NAME:
			ct = unix.ByteSliceToString(value) == "CT"
		case unix.NFTA_TARGET_INFO:
			if len(value) >= targetHelper+targetHelperLen {
				helper = unix.ByteSliceToString(value[targetHelper:][:targetHelperLen])
			}
		}
	})
	if !ct {
		return ""
	}
	return helper
}
