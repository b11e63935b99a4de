package conntrack

import (
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctbox/internal/cnum"
	"ctbox/internal/feature"
	"ctbox/internal/netns"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// wholeNumber reads all of s as an unsigned number up to most: decimal, octal (0…) or
// hexadecimal (0x…), as strtoul(3) does with base 0. A minus sign is refused, which
// strtoul(3) takes for a large number.
func wholeNumber(s string, most uint64) (uint64, bool) {
	v, rest, ok := cnum.Uint(s)
	return v, ok && rest == "" && v <= most && !strings.Contains(s, "-")
}

// wholeDecimal reads all of s as an unsigned decimal number up to most. The options
// that conntrack-tools reads by atoi(3) are decimal: "010" is 10, and "0x10" is no
// number.
func wholeDecimal(s string, most int64) (int64, bool) {
	v, rest, ok := cnum.Int(s)
	return v, ok && rest == "" && v >= 0 && v <= most && !strings.Contains(s, "-")
}

// unexpected refuses an argument that is not understood as a whole. The text is
// conntrack-tools'; name is the option with its dashes.
func unexpectedValue(arg, name string) *UsageError {
	return errUsage("unexpected value '" + arg + "' with " + name + " option")
}

// notA is unexpected for the options whose arguments conntrack-tools takes as they
// come; what is what the argument has to be.
func badArgument(arg, name, what string) error {
	return errUsage("unexpected value '" + arg + "' with " + name + " option: not " + what)
}

// setNumber sets the options whose argument is one number and nothing else.
func (p *Parser) setNumber(o *option, arg string, _ bool) error {
	most := uint64(math.MaxUint32)
	if o.bit&(OptZone|OptOrigZone|OptReplyZone) != 0 {
		most = math.MaxUint16
	}
	v, ok := wholeNumber(arg, most)
	if !ok {
		return unexpectedValue(arg, "-"+string(rune(o.short)))
	}
	f := &p.cmd.Flow
	switch o.bit {
	case OptID:
		f.ID = uint32(v)
		f.Has |= ctnetlink.HasID
	case OptSecmark:
		f.Secmark = uint32(v)
		f.Has |= ctnetlink.HasSecmark
	case OptZone:
		f.Zone = uint16(v)
		f.Has |= ctnetlink.HasZone
	case OptOrigZone:
		f.Orig.Zone = uint16(v)
		f.Orig.Has |= ctnetlink.TupleZone
	case OptReplyZone:
		f.Reply.Zone = uint16(v)
		f.Reply.Has |= ctnetlink.TupleZone
	}
	return nil
}

// setMark reads VALUE[/MASK].
func (p *Parser) setMark(o *option, arg string, _ bool) error {
	value, maskText, hasMask := strings.Cut(arg, "/")
	v, ok := wholeNumber(value, math.MaxUint32)
	m := uint64(math.MaxUint32)
	if ok && hasMask {
		m, ok = wholeNumber(maskText, math.MaxUint32)
	}
	if !ok {
		return unexpectedValue(arg, "-"+string(rune(o.short)))
	}
	p.cmd.Flow.Mark, p.cmd.Flow.MarkMask = uint32(v), uint32(m)
	p.cmd.Flow.Has |= ctnetlink.HasMark | ctnetlink.HasMarkMask
	return nil
}

func (p *Parser) setTimeout(_ *option, arg string, _ bool) error {
	v, ok := wholeDecimal(arg, math.MaxUint32)
	if !ok {
		return badArgument(arg, "-t", "a number of seconds")
	}
	p.cmd.Flow.Timeout = uint32(v)
	p.cmd.Flow.Has |= ctnetlink.HasTimeout
	return nil
}

func (p *Parser) setBufferSize(_ *option, arg string, _ bool) error {
	v, ok := wholeDecimal(arg, math.MaxInt32)
	if !ok {
		return badArgument(arg, "-b", "a number of bytes")
	}
	p.cmd.BufferSize = v
	return nil
}

func (p *Parser) setQueueSize(o *option, arg string, _ bool) error {
	v, ok := wholeNumber(arg, math.MaxInt64)
	if !ok || v == 0 {
		return unexpectedValue(arg, "--"+o.name)
	}
	p.cmd.QueueSize = int64(v)
	return nil
}

// setRefresh reads seconds, whole ones or with up to three decimals.
func (p *Parser) setRefresh(o *option, arg string, _ bool) error {
	whole, fraction, _ := strings.Cut(arg, ".")
	ms, err := strconv.ParseUint(whole+(fraction + "000")[:3], 10, 32)
	every := time.Duration(ms) * time.Millisecond
	if err != nil || whole == "" || len(fraction) > 3 || every < 100*time.Millisecond || every > 24*time.Hour {
		return unexpectedValue(arg, "--"+o.name)
	}
	p.cmd.Refresh = every
	return nil
}

// setTopKey reads KEY[,SORT]. Words can be shortened.
func (p *Parser) setTopKey(o *option, arg string, _ bool) error {
	if !feature.Top {
		return errRefused(withoutTop)
	}
	key, column, sorted := strings.Cut(arg, ",")
	kind, ok := abbreviated(key, topKeyNames())
	if !ok {
		return unexpectedValue(arg, "--"+o.name).meant(key, topKeyNames(), "keys")
	}
	p.cmd.TopKey = uint8(kind)
	if sorted {
		sort, ok := abbreviated(column, topSortNames())
		if !ok {
			return unexpectedValue(arg, "--"+o.name).meant(column, topSortNames(), "columns to sort by")
		}
		p.cmd.TopSort = topColumn(sort)
	}
	return nil
}

// abbreviated returns the index of the first of the words that begins with word.
func abbreviated(word string, words []string) (int, bool) {
	i := slices.IndexFunc(words, func(w string) bool { return word != "" && strings.HasPrefix(w, word) })
	return i, i >= 0
}

func topKeyNames() []string { return namesOf(topKinds[:], func(k *topKind) string { return k.word }) }

func topSortNames() []string { return namesOf(topSorts[:], func(s *topSort) string { return s.word }) }

func (p *Parser) setNetNS(_ *option, arg string, _ bool) error {
	if p.loading {
		return errUsage("Cannot use --netns in a file of --load-file, but beside it")
	}
	p.cmd.NetNS = strings.Clone(arg)
	return nil
}

func (p *Parser) setBy(o *option, arg string, _ bool) error {
	by, ok := abbreviated(arg, countKeys[:])
	if !ok {
		return badArgument(arg, "--"+o.name, strings.Join(countKeys[:], " or "))
	}
	p.cmd.By = countKey(by)
	return nil
}

func (p *Parser) setNothing(*option, string, bool) error { return nil }

func (p *Parser) ignoreNATRange(*option, string, bool) error {
	p.warn("WARNING: ignoring -a, deprecated option.\n")
	p.ignoredFilter = "--nat-range"
	return nil
}

// Words of -u, -e and -o. A word on the command line selects the first entry of its list
// that begins with it; upper and lower case are equal.

type statusWord struct {
	name string
	bit  uint32
}

var statusWords = [...]statusWord{
	{"ASSURED", ctnetlink.StatusAssured},
	{"SEEN_REPLY", ctnetlink.StatusSeenReply},
	{"UNSET", 0},
	{"FIXED_TIMEOUT", ctnetlink.StatusFixedTimeout},
	{"EXPECTED", ctnetlink.StatusExpected},
	{"OFFLOAD", ctnetlink.StatusOffload},
	{"HW_OFFLOAD", ctnetlink.StatusHWOffload},
}

type eventWord struct {
	name   string
	events Events
}

var eventWords = [...]eventWord{
	{"ALL", EventAll},
	{"NEW", EventNew},
	{"UPDATES", EventUpdate},
	{"DESTROY", EventDestroy},
}

type outputWord struct {
	name   string
	output Output
}

var outputWords = [...]outputWord{
	{"xml", OutXML},
	{"extended", OutExtended},
	{"timestamp", OutTimestamp},
	{"id", OutID},
	{"ktimestamp", OutKTimestamp},
	{"labels", OutLabels},
	{"userspace", OutUserspace},
	{"save", OutSave},
	{"json", OutJSON},
}

// unreplied is the status word for flows without SEEN_REPLY. It must be written
// in full and in capitals.
const unreplied = "UNREPLIED"

// ignoredWords were status words once. They still go before all others, which
// is why S and D never abbreviate SEEN_REPLY, save or DESTROY.
var ignoredWords = [...]struct{ name, warning string }{
	{"SRC_NAT", "WARNING: ignoring SRC_NAT, use --src-nat instead\n"},
	{"DST_NAT", "WARNING: ignoring DST_NAT, use --dst-nat instead\n"},
}

func abbreviates(word, name string) bool {
	return word != "" && len(word) <= len(name) && strings.EqualFold(word, name[:len(word)])
}

// ignored reports whether word is dropped with a warning, which it prints.
func (p *Parser) ignored(word string) bool {
	for _, w := range ignoredWords {
		if abbreviates(word, w.name) {
			p.warn(w.warning)
			p.ignoredFilter = w.name
			return true
		}
	}
	return false
}

func (p *Parser) warn(line string) { _, _ = io.WriteString(p.Warnings, line) }

// badParameter is the error for a comma-separated list with a wrong word; rest is what
// conntrack-tools prints, the list from that word on.
func badParameter(rest, word string, valid []string, title string) error {
	return errUsage("Bad parameter `"+rest+"'").meant(word, valid, title)
}

func namesOf[T any](words []T, name func(*T) string) []string {
	names := make([]string, len(words))
	for i := range words {
		names[i] = name(&words[i])
	}
	return names
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	netns.SortNames(keys)
	return keys
}

func statusNames() []string {
	return append(namesOf(statusWords[:], func(w *statusWord) string { return w.name }), unreplied)
}

func eventNames() []string {
	return namesOf(eventWords[:], func(w *eventWord) string { return w.name })
}

func outputNames() []string {
	return namesOf(outputWords[:], func(w *outputWord) string { return w.name })
}

// setStatus adds up what must be set and, after a !, what must be clear.
func (p *Parser) setStatus(_ *option, arg string, _ bool) error {
	for rest, more := arg, true; more; {
		word, tail, comma := strings.Cut(rest, ",")
		value, ok := uint32(0), true
		not := strings.HasPrefix(word, "!")
		if not {
			word, rest = word[1:], rest[1:]
		}
		switch {
		case p.ignored(word):
		case not:
			value, ok = statusBit(word)
			p.notStatus |= value
		case word == unreplied:
			p.notStatus |= ctnetlink.StatusSeenReply
		default:
			value, ok = statusBit(word)
			p.cmd.Flow.Status |= value
		}
		if !ok {
			return badParameter(rest, word, statusNames(), "words of -u, which a ! may precede")
		}
		rest, more = tail, comma
	}
	p.cmd.Flow.Has |= ctnetlink.HasStatus
	return nil
}

func statusBit(word string) (uint32, bool) {
	for _, w := range statusWords {
		if abbreviates(word, w.name) {
			return w.bit, true
		}
	}
	return 0, false
}

func (p *Parser) setEvents(_ *option, arg string, _ bool) error {
	return p.eachWord(arg, eventNames, "words of -e", func(word string) bool {
		for _, w := range eventWords {
			if abbreviates(word, w.name) {
				p.cmd.Events |= w.events
				return true
			}
		}
		return false
	})
}

const withoutTop = "this ctbox was built without --top"

const withoutJSON = "this ctbox was built without JSON"

func (p *Parser) setOutput(_ *option, arg string, _ bool) error {
	err := p.eachWord(arg, outputNames, "words of -o", func(word string) bool {
		for _, w := range outputWords {
			if abbreviates(word, w.name) {
				p.cmd.Output |= w.output
				return true
			}
		}
		return false
	})
	out := p.cmd.Output
	switch {
	case err != nil:
		return err
	case out&OutSave != 0 && out != OutSave:
		return errRefused("cannot combine save output with any other output type, use -o save only")
	case out&OutJSON != 0 && !feature.JSON:
		return errRefused(withoutJSON)
	case out&OutJSON != 0 && out&OutXML != 0:
		return errRefused("cannot combine json output with xml output")
	}
	return nil
}

// eachWord calls take for each word of a comma-separated list except the ignored ones.
// valid and title are for the hint about a word that take refuses.
func (p *Parser) eachWord(arg string, valid func() []string, title string, take func(word string) bool) error {
	for rest, more := arg, true; more; {
		word, tail, comma := strings.Cut(rest, ",")
		if !p.ignored(word) && !take(word) {
			return badParameter(rest, word, valid(), title)
		}
		rest, more = tail, comma
	}
	return nil
}

// parseAddr reads an address as inet_aton(3) does, which accepts "10.1", octal and
// hexadecimal parts and trailing white space, else as inet_pton(3) does for IPv6.
// Text behind the white space, which inet_aton(3) ignores, is refused.
func parseAddr(s string) (a ctnetlink.Addr, family uint8, ok bool) {
	if v4, ok := parseIPv4(s); ok {
		a[0], a[1], a[2], a[3] = byte(v4>>24), byte(v4>>16), byte(v4>>8), byte(v4)
		return a, nl.FamilyIPv4, true
	}
	if !strings.Contains(s, ":") || strings.Contains(s, "%") {
		return a, 0, false
	}
	v6, err := netip.ParseAddr(s)
	if err != nil || !v6.Is6() {
		return a, 0, false
	}
	return v6.As16(), nl.FamilyIPv6, true
}

// parseIPv4 reads up to four parts. The last part fills the remaining bytes.
func parseIPv4(s string) (uint32, bool) {
	var addr uint32
	for part := 0; ; part++ {
		if s == "" || s[0] < '0' || s[0] > '9' {
			return 0, false
		}
		v, rest, ok := decimal(s)
		if !ok {
			v, rest, _ = cnum.Uint(s)
		}
		if rest != "" && rest[0] == '.' {
			if part == 3 || v > 0xff {
				return 0, false
			}
			addr |= uint32(v) << (24 - 8*part)
			s = rest[1:]
			continue
		}
		if v > 0xffffffff>>(8*part) || strings.TrimLeft(rest, " \t\n\v\f\r") != "" {
			return 0, false
		}
		return addr | uint32(v), true
	}
}

// decimal reads a short decimal number without a leading 0, the usual form of a part.
func decimal(s string) (v uint64, rest string, ok bool) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		v = v*10 + uint64(s[i]-'0')
		i++
	}
	if i > 3 || s[0] == '0' && len(s) > 1 && s[1] != '.' {
		return 0, s, false
	}
	return v, s[i:], true
}

// addrArg reads an argument ADDR[/LEN] and sets the line's family.
// prefix is -1 without a length.
func (p *Parser) addrArg(arg, name string, cidr bool) (a ctnetlink.Addr, prefix int, err error) {
	text, length, hasLength := strings.Cut(arg, "/")
	a, family, ok := parseAddr(text)
	if !ok {
		return a, 0, errUsage("Invalid IP address `" + arg + "'")
	}
	if err := p.setLineFamily(family); err != nil {
		return a, 0, err
	}
	if !hasLength {
		return a, -1, nil
	}
	if !cidr {
		return a, 0, errUsage("CIDR notation unavailable for `--" + name + "'")
	}
	prefix, ok = parsePrefix(length, addrBits(family))
	if !ok {
		return a, 0, errUsage("Invalid netmask")
	}
	return a, prefix, nil
}

func addrBits(family uint8) int {
	if family == nl.FamilyIPv6 {
		return 128
	}
	return 32
}

// parsePrefix reads a prefix length. conntrack-tools reads an empty one, of a script's
// "$ADDR/$LEN" without LEN, as 0, which matches every address; here it is refused.
func parsePrefix(s string, most int) (int, bool) {
	v, ok := wholeDecimal(s, int64(most))
	return int(v), ok
}

// prefixMask is the address mask of a prefix length.
func prefixMask(prefix int) (m ctnetlink.Addr) {
	for i := range m {
		switch {
		case prefix >= 8:
			m[i] = 0xff
		case prefix > 0:
			m[i] = ^byte(0xff >> prefix)
		}
		prefix -= 8
	}
	return m
}

// setLineFamily makes family the line's, unless it has another one already.
func (p *Parser) setLineFamily(family uint8) error {
	if p.cmd.Family != nl.FamilyUnspec && p.cmd.Family != family {
		return errUsage("mismatched address family")
	}
	p.cmd.Family = family
	return nil
}

func (p *Parser) setFamily(_ *option, arg string, _ bool) error {
	switch arg {
	case "ipv4":
		return p.setLineFamily(nl.FamilyIPv4)
	case "ipv6":
		return p.setLineFamily(nl.FamilyIPv6)
	}
	return errUsage("`"+arg+"' unsupported protocol").meant(arg, []string{"ipv4", "ipv6"}, "families")
}

func (p *Parser) setAddr(o *option, arg string, _ bool) error {
	cidr := o.bit&(OptSrc|OptDst|OptTupleSrc|OptTupleDst) != 0
	a, prefix, err := p.addrArg(arg, o.name, cidr)
	if err != nil {
		return err
	}
	c := p.cmd
	if o.bit&(OptMaskSrc|OptMaskDst) != 0 && !wholeMask(arg, c.Family) {
		return badArgument(arg, "--"+o.name, "a mask, written as an address")
	}
	switch o.bit {
	case OptSrc:
		setSrc(&c.Flow.Orig, a, c.Family)
	case OptDst:
		setDst(&c.Flow.Orig, a, c.Family)
	case OptReplySrc:
		setSrc(&c.Flow.Reply, a, c.Family)
	case OptReplyDst:
		setDst(&c.Flow.Reply, a, c.Family)
	case OptTupleSrc:
		setSrc(&c.Expect.Tuple, a, c.Family)
	case OptTupleDst:
		setDst(&c.Expect.Tuple, a, c.Family)
	case OptMaskSrc:
		c.SrcMask = a
	case OptMaskDst:
		c.DstMask = a
	}
	// A length sets the same field as --mask-src or --mask-dst. A length that covers
	// the whole address is no mask.
	if prefix >= 0 && prefix < addrBits(c.Family) {
		if o.bit&(OptSrc|OptTupleSrc) != 0 {
			c.Given |= OptMaskSrc
			c.SrcMask = prefixMask(prefix)
		} else {
			c.Given |= OptMaskDst
			c.DstMask = prefixMask(prefix)
		}
	}
	return nil
}

// wholeMask reports whether an IPv4 mask is written in full: by its four parts, or as
// one hexadecimal number. The other forms of inet_aton(3) mislead: "24" is 0.0.0.24.
func wholeMask(arg string, family uint8) bool {
	return family != nl.FamilyIPv4 || strings.Count(arg, ".") == 3 ||
		len(arg) > 2 && arg[0] == '0' && arg[1]|0x20 == 'x' && !strings.Contains(arg, ".")
}

func setSrc(t *ctnetlink.Tuple, a ctnetlink.Addr, family uint8) {
	t.Src, t.Family = a, family
	t.Has |= ctnetlink.TupleSrc
}

func setDst(t *ctnetlink.Tuple, a ctnetlink.Addr, family uint8) {
	t.Dst, t.Family = a, family
	t.Has |= ctnetlink.TupleDst
}

// setNAT reads ADDR, ADDR:PORT or [ADDR]:PORT.
func (p *Parser) setNAT(o *option, arg string, given bool) error {
	nat := ctnetlink.NAT{}
	if given {
		addr, port, hasPort, err := splitNAT(arg)
		if err != nil {
			return err
		}
		if hasPort {
			if nat.Port, err = natPort(port); err != nil {
				return err
			}
		}
		if nat.Addr, _, err = p.addrArg(addr, o.name, false); err != nil {
			return err
		}
		nat.HasAddr, nat.HasPort = true, hasPort
	}
	switch o.bit {
	case OptSrcNAT:
		p.cmd.SrcNAT = nat
	case OptDstNAT:
		p.cmd.DstNAT = nat
	case OptAnyNAT:
		p.cmd.AnyNAT = nat
	}
	return nil
}

// splitNAT splits the argument of a NAT option. An IPv6 address needs brackets only when
// a port follows.
func splitNAT(arg string) (addr, port string, hasPort bool, err error) {
	if before, inside, bracket := strings.Cut(arg, "["); bracket {
		addr, after, closed := strings.Cut(inside, "]")
		if !closed {
			return "", "", false, errUsage("No closing ']' around IPv6 address")
		}
		if addr == "" {
			return "", "", false, errUsage("No IPv6 address specified")
		}
		between, port, hasPort := strings.Cut(after, ":")
		if !hasPort || before != "" || between != "" {
			return arg, "", false, nil // the whole is no address
		}
		return addr, port, true, nil
	}
	if addr, port, ok := strings.Cut(arg, ":"); ok && !strings.Contains(port, ":") {
		return addr, port, true, nil
	}
	return arg, "", false, nil
}

func natPort(s string) (uint16, error) {
	if s == "" {
		return 0, errUsage("No port specified after `:'")
	}
	v := uint32(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, errUsage("Invalid port `" + s + "'")
		}
		if v = v*10 + uint32(s[i]-'0'); v > 0xffff {
			return 0, errUsage("Invalid port `" + s + "'")
		}
	}
	return uint16(v), nil
}
