package nfct

import (
	"context"
	"errors"
	"strconv"
	"syscall"

	"ctbox/internal/strerror"
	"ctbox/nl"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/cttimeout"

	"golang.org/x/sys/unix"
)

// The message of a refusal begins as in conntrack-tools, with "netlink error: " and the
// C library's text, and ends with the reason in parentheses. The same error number has
// different reasons for different requests.

// timeoutRefusal explains the error, if any, of a request about p. p is nil for
// a request about the whole table.
func (s *session) timeoutRefusal(inv invocation, p *cttimeout.Policy, err error) error {
	errno, err := s.kernelError(err, "nfct_timeout_nlmsg_parse_payload")
	if err == nil || errno == 0 {
		return err
	}
	reason := ""
	switch {
	case errno == unix.EBUSY && inv.command == cmdAdd:
		reason = "a timeout policy named `" + p.Name + "' exists"
	case errno == unix.EBUSY && inv.command == cmdDelete:
		reason = "timeout policy `" + p.Name + "' is in use by a rule"
	case errno == unix.ENOENT && p != nil:
		reason = "there is no timeout policy named `" + p.Name + "'"
	case errno == unix.EOPNOTSUPP && p != nil:
		reason = "this kernel has no timeouts for " + protocolText(p.Proto)
		if option, ok := protocolOptions[p.Proto]; ok {
			reason += ", which needs " + option
		}
	case errno == unix.EINVAL && s.lacks(cttimeout.Available):
		reason = "kernel without timeout policies: load module nfnetlink_cttimeout or set CONFIG_NF_CT_NETLINK_TIMEOUT"
	case errno == unix.EINVAL && inv.command == cmdAdd && p.Timeouts == (cttimeout.Timeouts{}):
		reason = "no state and timeout given"
	}
	return refusal{err, reason, ""}
}

// helperRefusal explains the error, if any, of a request about the helper.
func (s *session) helperRefusal(inv invocation, key cthelper.Key, err error) error {
	errno, err := s.kernelError(err, "nfct_helper_nlmsg_parse_payload")
	if err == nil || errno == 0 {
		return err
	}
	reason, hint := "", ""
	switch {
	case errno == unix.EBUSY && inv.command == cmdAdd:
		// Two things are refused with the same number.
		if _, err := cthelper.Get(s.ctx, s.conn, key); err == nil {
			reason = keyText(key) + " exists with another private data length or other policies"
		} else {
			reason = "the kernel has a helper of its own by that name"
			hint = "Maybe unload nf_conntrack_" + key.Name + ".ko first?"
		}
	case errno == unix.EBUSY && inv.command == cmdDelete:
		reason = keyText(key) + " is in use by a rule or a flow"
	case errno == unix.EBUSY:
		reason = "a helper is in use by a rule or a flow"
	case errno == unix.ENOENT:
		reason = "there is no " + keyText(key)
	case errno == unix.EINVAL && s.lacks(cthelper.Available):
		reason = "kernel without user-space helpers: load module nfnetlink_cthelper or set CONFIG_NF_CT_NETLINK_HELPER"
	case errno == unix.EINVAL && inv.command == cmdDisable:
		reason = "there is no " + keyText(key)
	}
	return refusal{err, reason, hint}
}

// protocolOptions are the kernel's options for protocols that it may lack, by the
// number. Linux 6.18 has no DCCP at all.
var protocolOptions = map[uint8]string{
	ctnetlink.ProtoDCCP:    "CONFIG_NF_CT_PROTO_DCCP",
	ctnetlink.ProtoGRE:     "CONFIG_NF_CT_PROTO_GRE",
	ctnetlink.ProtoSCTP:    "CONFIG_NF_CT_PROTO_SCTP",
	ctnetlink.ProtoUDPLite: "CONFIG_NF_CT_PROTO_UDPLITE",
}

// refusal is an error of the kernel and its reason.
type refusal struct {
	err    error  // *nl.Error
	reason string // may be empty
	hint   string // a second line, without the program's name; may be empty
}

func (r refusal) Error() string {
	var e *nl.Error
	errors.As(r.err, &e)
	text := "netlink error: " + strerror.Text(syscall.Errno(e.Errno))
	reason := r.reason
	if e.Errno == unix.EPERM {
		reason = "this needs CAP_NET_ADMIN"
	}
	if e.Text != "" {
		if reason != "" {
			reason += "; "
		}
		reason += "kernel: " + e.Text
	}
	if reason != "" {
		text += " (" + reason + ")"
	}
	if r.hint != "" {
		text += "\n" + r.hint
	}
	return text
}

func (r refusal) Unwrap() error { return r.err }

// kernelError returns the number of an error that the kernel sent, or 0 and the message
// for any other error of a request. notRead begins the message for an answer that could
// not be decoded.
func (s *session) kernelError(err error, notRead argError) (unix.Errno, error) {
	if err == nil {
		return 0, nil
	}
	var e *nl.Error
	if errors.As(err, &e) {
		return e.Errno, err
	}
	var errno syscall.Errno
	switch {
	case s.ctx.Err() != nil:
		return 0, errors.New("interrupted")
	case errors.As(err, &errno):
		return 0, errors.New("netlink error: " + strerror.Text(errno))
	}
	return 0, errors.New(string(notRead) + " (" + err.Error() + ")")
}

// lacks reports whether the kernel lacks a subsystem.
func (s *session) lacks(available func(context.Context, *nl.Conn) (bool, error)) bool {
	ok, err := available(s.ctx, s.conn)
	return err == nil && !ok
}

func protocolText(proto uint8) string {
	text := "layer 4 protocol " + strconv.Itoa(int(proto))
	if name := protocolName(proto); name != "" {
		text += " (" + name + ")"
	}
	return text
}

// keyText names a helper as the command line does.
func keyText(k cthelper.Key) string {
	text := "user-space helper `" + k.Name + "'"
	if k.Family != 0 {
		text += " for " + familyName(k.Family)
		if k.Proto != 0 {
			text += " " + protocolName(k.Proto)
		}
	}
	return text
}
