package nfct

import (
	"errors"
	"io"
	"time"

	"ctbox/helpers/builtin"
	"ctbox/helpers/helper"
	"ctbox/internal/feature"
	"ctbox/nl"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

const (
	errNoHelperName = argError("missing helper policy name")
	errHelperProto  = argError("unsupported layer 4 protocol")
	errNotBuiltin   = argError("that helper is not supported")

	syntaxAddHelper     = argError("missing parameters\nsyntax: nfct add helper name family protocol")
	syntaxDisableHelper = argError("missing parameters\nsyntax: nfct disable helper name family protocol")
)

// helper carries out a command on the kernel's entries of user-space helpers.
func (s *session) helper(argv0 string, inv invocation) error {
	switch inv.command {
	case cmdList:
		if len(inv.args) > 0 {
			return errTooMany
		}
		return s.helperRefusal(inv, cthelper.Key{}, cthelper.List(s.ctx, s.conn, s.showHelper))
	case cmdAdd:
		if len(inv.args) < 3 {
			return syntaxAddHelper
		}
		if len(inv.args) > 3 {
			return errTooMany
		}
		return s.addHelper(inv)
	case cmdDisable:
		if len(inv.args) < 3 {
			return syntaxDisableHelper
		}
		if len(inv.args) > 3 {
			return errTooMany
		}
		return s.disableHelper(inv)
	case cmdGet, cmdDelete:
		if len(inv.args) < 1 {
			return errNoHelperName
		}
		if len(inv.args) > 3 {
			return errTooMany
		}
		key, err := parseKey(inv.args)
		if err != nil {
			return err
		}
		if inv.command == cmdGet {
			return s.getHelper(inv, key)
		}
		return s.deleteHelpers(inv, key)
	case cmdFlush:
		if len(inv.args) > 0 {
			return errTooMany
		}
		return s.helperRefusal(inv, cthelper.Key{}, cthelper.Flush(s.ctx, s.conn))
	default: // default-set, default-get
		return argError("Unknown command: " + inv.word + "\n" + prefix + "Missing command\n" + argv0 +
			" helper list|add|delete|disable|get|flush [parameters...]")
	}
}

// addHelper creates the kernel's entry of a helper, without a queue and disabled: rules
// can name it, and conntrackd enables it later.
func (s *session) addHelper(inv invocation) error {
	key, known, err := parseBuiltin(inv.args)
	if err != nil {
		return err
	}
	io.WriteString(s.stderr, familyWarning(inv.args, key, known))
	return s.helperRefusal(inv, key, cthelper.Set(s.ctx, s.conn, &cthelper.Helper{
		Has:         cthelper.HasName | cthelper.HasTuple | cthelper.HasPrivDataLen | cthelper.HasPolicies,
		Name:        key.Name,
		Family:      key.Family,
		Proto:       key.Proto,
		PrivDataLen: uint32(known.PrivateLen),
		Policies: []cthelper.Policy{{Name: known.Name, ExpectMax: known.ExpectMax,
			ExpectTimeout: uint32(known.ExpectTimeout / time.Second)}},
	}))
}

// familyWarning returns a warning that a helper is useless for the family in args, or "".
func familyWarning(args []string, key cthelper.Key, known *helper.Helper) string {
	if known.Supports(uint8(key.Family)) {
		return ""
	}
	return prefix + "warning: helper " + known.Name + " never expects anything over " + args[1] + "\n"
}

// disableHelper makes the kernel accept a helper's packets instead of queueing them. The
// rest of the entry does not change.
func (s *session) disableHelper(inv invocation) error {
	key, _, err := parseBuiltin(inv.args)
	if err != nil {
		return err
	}
	return s.helperRefusal(inv, key, cthelper.Set(s.ctx, s.conn, &cthelper.Helper{
		Has:    cthelper.HasName | cthelper.HasTuple | cthelper.HasStatus,
		Name:   key.Name,
		Family: key.Family,
		Proto:  key.Proto,
		Status: cthelper.Disabled,
	}))
}

// getHelper shows the first helper that the key selects.
func (s *session) getHelper(inv invocation, key cthelper.Key) error {
	if key.Family != 0 && key.Proto == 0 {
		found, err := s.helpersOf(key)
		if err != nil {
			return s.helperRefusal(inv, key, err)
		}
		return s.showHelper(&found[0])
	}
	h, err := cthelper.Get(s.ctx, s.conn, key)
	if err != nil {
		return s.helperRefusal(inv, key, err)
	}
	return s.showHelper(h)
}

func (s *session) deleteHelpers(inv invocation, key cthelper.Key) error {
	keys := []cthelper.Key{key}
	if key.Family != 0 && key.Proto == 0 {
		found, err := s.helpersOf(key)
		if err != nil {
			return s.helperRefusal(inv, key, err)
		}
		keys = keys[:0]
		for _, h := range found {
			keys = append(keys, cthelper.Key{Name: h.Name, Family: h.Family, Proto: h.Proto})
		}
	}
	for _, key := range keys {
		if err := cthelper.Delete(s.ctx, s.conn, key); err != nil {
			return s.helperRefusal(inv, key, err)
		}
	}
	return nil
}

// helpersOf finds the helpers with the key's name and family, at least one. The kernel's
// own lookup needs the protocol, too.
func (s *session) helpersOf(key cthelper.Key) ([]cthelper.Helper, error) {
	var found []cthelper.Helper
	err := cthelper.List(s.ctx, s.conn, func(h *cthelper.Helper) error {
		if h.Name == key.Name && h.Family == key.Family {
			found = append(found, *h)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = &nl.Error{Errno: unix.ENOENT}
	}
	return found, err
}

var errIncomplete = errors.New("attributes are missing")

func (s *session) showHelper(h *cthelper.Helper) error {
	const needed = cthelper.HasName | cthelper.HasTuple | cthelper.HasQueue | cthelper.HasPolicies | cthelper.HasStatus
	if h.Has&needed != needed {
		return errIncomplete
	}
	if feature.JSON && s.json {
		s.buf = appendHelperJSON(s.buf[:0], h)
	} else {
		s.buf = appendHelper(s.buf[:0], h)
	}
	s.out.Write(s.buf) // the Writer keeps an error until Flush
	return nil
}

// parseKey reads NAME [FAMILY [PROTOCOL]].
func parseKey(args []string) (cthelper.Key, error) {
	key := cthelper.Key{Name: args[0]}
	if err := wholeName(key.Name, cthelper.NameMax); err != nil {
		return key, err
	}
	var ok bool
	if len(args) > 1 {
		if key.Family, ok = families[args[1]]; !ok {
			return key, errFamily
		}
	}
	if len(args) > 2 {
		if key.Proto, ok = helperProtocols[args[2]]; !ok {
			return key, errHelperProto
		}
	}
	return key, nil
}

// helperProtocols are the protocols with helpers, in their only spelling.
var helperProtocols = map[string]uint8{"tcp": ctnetlink.ProtoTCP, "udp": ctnetlink.ProtoUDP}

// parseBuiltin reads NAME FAMILY PROTOCOL of a helper that conntrackd has. The helper's
// numbers in the kernel are those of conntrack-tools, so that an entry made by one
// program can be used by the other's daemon.
func parseBuiltin(args []string) (cthelper.Key, *helper.Helper, error) {
	key, err := parseKey(args[:3])
	if err != nil {
		return key, nil, err
	}
	if h := builtin.Find(args[0], key.Proto); h != nil {
		return key, h, nil
	}
	return key, nil, errNotBuiltin
}
