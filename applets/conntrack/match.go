package conntrack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/applets/internal/getopt"
	"ctbox/internal/feature"
	"ctbox/internal/jsonout"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
	"ctbox/nl/match"
)

// This file has --match: its lines, its file and what a command does with it.

const matchTitle = "Conditions in a line of --match, besides those of -L and -D"

// lineOptions are the conditions that a line of --match has in addition, and those that
// take more there than on the command line.
var lineOptions = [...]option{
	{OptSrc, 's', []string{"orig-src", "src"}, "src", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"source of the original direction; IPv6 with a port in brackets", "", (*Parser).setEnd},
	{OptDst, 'd', []string{"orig-dst", "dst"}, "dst", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"destination of the original direction", "", (*Parser).setEnd},
	{OptReplySrc, 'r', []string{"reply-src"}, "reply-src", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"source of the reply direction", "", (*Parser).setEnd},
	{OptReplyDst, 'q', []string{"reply-dst"}, "reply-dst", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"destination of the reply direction", "", (*Parser).setEnd},
	{0, 0, []string{"any-src"}, "any-src", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"source of either direction; with --any-dst both are of the same direction", "", (*Parser).setEnd},
	{0, 0, []string{"any-dst"}, "any-dst", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"destination of either direction", "", (*Parser).setEnd},
	{0, 0, []string{"any-addr"}, "any-addr", getopt.Required, false, groupCommon, "ADDR[/LEN][:PORT[-PORT]]",
		"source or destination of either direction", "", (*Parser).setEnd},
	{OptTimeout, 't', []string{"timeout"}, "timeout", getopt.Required, false, groupCommon, "RANGE",
		"seconds left: N, N-M, N- or -M", "", (*Parser).setRange},
	{0, 0, []string{"age"}, "age", getopt.Required, false, groupCommon, "RANGE",
		"seconds since the flow began (nf_conntrack_timestamp=1)", "", (*Parser).setRange},
	{0, 0, []string{"packets"}, "packets", getopt.Required, false, groupCommon, "RANGE",
		"packets of both directions (nf_conntrack_acct=1)", "", (*Parser).setRange},
	{0, 0, []string{"bytes"}, "bytes", getopt.Required, false, groupCommon, "RANGE",
		"bytes of both directions (nf_conntrack_acct=1)", "", (*Parser).setRange},
}

// lineSet returns the options of a line: the conditions of -L and -D, but for those that
// lineOptions has, and lineOptions.
func lineSet() (*getopt.Set, []option) {
	const conditions = OptProto | OptStatus | OptMaskSrc | OptMaskDst | OptMark | OptID | OptFamily | OptSrcNAT | OptDstNAT |
		OptAnyNAT | OptSecmark | OptZone | OptLabel | OptOrigZone | OptReplyZone
	var rows []option
	for _, o := range options {
		if o.bit&conditions != 0 {
			rows = append(rows, o)
		}
	}
	rows = append(rows, lineOptions[:]...)
	var all []getopt.Option
	for i, o := range rows {
		if o.short != 0 {
			all = append(all, getopt.Option{Short: o.short, Kind: o.kind, Code: i})
		}
		for _, long := range o.long {
			all = append(all, getopt.Option{Long: long, Kind: o.kind, Code: i, Added: o.added()})
		}
	}
	return getopt.New(all), rows
}

// linePredicate is the line of --match that is being parsed: what of it a command line can't
// say.
type linePredicate struct {
	match.Predicate
	seen    uint64 // its options, by code
	set     *getopt.Set
	options []option
}

// inLine returns the line of --match that is being parsed, nil outside of one.
func (p *Parser) inLine() *linePredicate {
	if !feature.Match || p.line == nil {
		return nil
	}
	return p.line.(*linePredicate)
}

// setOption is Parser.setOption for a line. Of an option that is there twice, one would be
// a condition that is dropped.
func (x *linePredicate) setOption(p *Parser, m getopt.Match) error {
	o := &x.options[m.Code]
	if x.seen&(1<<m.Code) != 0 {
		return twice(o.name)
	}
	x.seen |= 1 << m.Code
	return p.setOption(o, m)
}

// newLinePredicate returns a line for parsePredicate, which may be used for many.
func newLinePredicate() *linePredicate {
	x := &linePredicate{}
	x.set, x.options = lineSet()
	return x
}

// parsePredicate parses the words of a line of --match, the first of which is the
// program's name. The error is a *UsageError; word is the word that it is about, 0 for
// the line as a whole.
func (p *Parser) parsePredicate(x *linePredicate, argv []string, cmd *Command) (predicate match.Predicate, word int, err error) {
	cmd.Reset()
	p.begin(cmd)
	cmd.Op = OpDelete
	p.loading = false
	x.Predicate, x.seen = match.Predicate{}, 0
	p.line = x
	defer func() { p.line = nil }()
	p.scan.Start(x.set, argv, true)
	if err := p.scanOptions(); err != nil {
		return predicate, p.scan.Index(), err
	}
	if words := p.scan.Words(); len(words) > 0 {
		return predicate, len(argv) - len(words), surplus(words[0])
	}
	if err := p.finishPredicate(x); err != nil {
		return predicate, 0, err
	}
	setConditions(&predicate, cmd)
	if err := addLine(&predicate, &x.Predicate, cmd); err != nil {
		return predicate, 0, err
	}
	if predicate == (match.Predicate{}) {
		return predicate, 0, errUsage("no condition") // which all flows would meet
	}
	return predicate, 0, nil
}

// finishPredicate checks what the options of a line say about each other.
func (p *Parser) finishPredicate(x *linePredicate) error {
	c := p.cmd
	if err := p.resolveLabels(); err != nil {
		return err
	}
	if c.Has(OptAnyNAT) && c.Has(OptSrcNAT|OptDstNAT) {
		return errUsage("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
	}
	if err := p.checkProtocol(colDelete); err != nil {
		return err
	}
	if err := p.checkConflicts(); err != nil {
		return err
	}
	f := &c.Flow
	if f.Orig.Has&ctnetlink.TupleSrcPort != 0 && x.Orig.Has&match.SrcPort != 0 || f.Orig.Has&ctnetlink.TupleDstPort != 0 && x.Orig.Has&match.DstPort != 0 ||
		f.Reply.Has&ctnetlink.TupleSrcPort != 0 && x.Reply.Has&match.SrcPort != 0 || f.Reply.Has&ctnetlink.TupleDstPort != 0 && x.Reply.Has&match.DstPort != 0 {
		return errTwoPorts()
	}
	p.completeStatus()
	if c.Has(OptStatus) && c.Flow.StatusMask == 0 {
		return errUsage("the status list names no status")
	}
	return nil
}

func twice(name string) error {
	return errUsage("option `--" + name + "' twice: a line is one predicate, whose conditions must all be met")
}

// addLine adds to p what only a line can say.
func addLine(p, line *match.Predicate, c *Command) error {
	for _, t := range [...]struct{ to, from *match.Tuple }{{&p.Orig, &line.Orig}, {&p.Reply, &line.Reply}} {
		t.to.Has |= t.from.Has
		if t.from.Has&match.Src != 0 {
			t.to.Src = t.from.Src
		}
		if t.from.Has&match.Dst != 0 {
			t.to.Dst = t.from.Dst
		}
		if t.from.Has&match.SrcPort != 0 {
			t.to.SrcPort = t.from.SrcPort
		}
		if t.from.Has&match.DstPort != 0 {
			t.to.DstPort = t.from.DstPort
		}
	}
	p.Has |= line.Has
	p.Any, p.End = line.Any, line.End
	p.Timeout, p.Age, p.Packets, p.Bytes = line.Timeout, line.Age, line.Packets, line.Bytes
	for _, m := range [...]struct {
		opt  Option
		name string
		mask *ctnetlink.Addr
		addr *match.Address
	}{{OptMaskSrc, "mask-src", &c.SrcMask, &p.Orig.Src}, {OptMaskDst, "mask-dst", &c.DstMask, &p.Orig.Dst}} {
		if !c.Has(m.opt) {
			continue
		}
		if m.addr.Mask != prefixMask(addrBits(c.Family)) {
			return errUsage("`--" + m.name + "' and the length of a prefix")
		}
		m.addr.Mask = *m.mask
	}
	return nil
}

// setPortRange takes N-M for a port option of a line. Everything else is left to the
// caller, and so is a range that is none.
func (x *linePredicate) setPortRange(role tupleRole, e side, arg string) (taken bool, err error) {
	if !strings.Contains(arg, "-") || role != orig && role != reply {
		return false, nil
	}
	r, ok := match.ParseRange(arg, math.MaxUint16)
	if !ok {
		return false, nil
	}
	t := &x.Orig
	if role == reply {
		t = &x.Reply
	}
	ports := match.Ports{Min: uint16(r.Min), Max: uint16(r.Max)}
	return true, setPorts(t, e == source, ports)
}

// setPorts adds a condition on the ports of an end, which may have one only.
func setPorts(t *match.Tuple, isSrc bool, ports match.Ports) error {
	bit, field := match.DstPort, &t.DstPort
	if isSrc {
		bit, field = match.SrcPort, &t.SrcPort
	}
	if t.Has&bit != 0 {
		return errTwoPorts()
	}
	*field, t.Has = ports, t.Has|bit
	return nil
}

func errTwoPorts() error {
	return errUsage("a port behind the address and another by an option of the protocol")
}

// setEnd reads ADDR[/LEN], with :PORT or :PORT-PORT behind it.
func (p *Parser) setEnd(o *option, arg string, _ bool) error {
	text, port, hasPort, err := splitNAT(arg)
	if err != nil {
		return err
	}
	e := match.End{HasAddr: true, HasPort: hasPort}
	if hasPort {
		r, ok := match.ParseRange(port, math.MaxUint16)
		if !ok {
			return errUsage("Invalid port `" + port + "'")
		}
		e.Ports = match.Ports{Min: uint16(r.Min), Max: uint16(r.Max)}
	}
	addr, prefix, err := p.addrArg(text, o.name, true)
	if err != nil {
		return err
	}
	if prefix < 0 {
		prefix = addrBits(p.cmd.Family)
	}
	e.Addr = match.Address{Addr: addr, Mask: prefixMask(prefix), Family: p.cmd.Family}
	x := p.inLine()
	tuple, isSrc := &x.Orig, true
	switch o.name {
	case "dst":
		isSrc = false
	case "reply-src":
		tuple = &x.Reply
	case "reply-dst":
		tuple, isSrc = &x.Reply, false
	case "any-src":
		tuple = &x.Any
	case "any-dst":
		tuple, isSrc = &x.Any, false
	case "any-addr":
		x.Has, x.End = x.Has|match.AnyEnd, e
		return nil
	}
	if isSrc {
		tuple.Src, tuple.Has = e.Addr, tuple.Has|match.Src
	} else {
		tuple.Dst, tuple.Has = e.Addr, tuple.Has|match.Dst
	}
	if hasPort {
		return setPorts(tuple, isSrc, e.Ports)
	}
	return nil
}

// setRange reads N, N-M, N- or -M.
func (p *Parser) setRange(o *option, arg string, _ bool) error {
	most := uint64(math.MaxUint64)
	if o.bit == OptTimeout {
		most = math.MaxUint32
	}
	r, ok := match.ParseRange(arg, most)
	if !ok {
		return badArgument(arg, "--"+o.name, "a number, or a range such as 80-90, 80- or -90")
	}
	x := p.inLine()
	switch o.name {
	case "timeout":
		x.Timeout, x.Has = r, x.Has|match.Timeout
	case "age":
		x.Age, x.Has = r, x.Has|match.Age
	case "packets":
		x.Packets, x.Has = r, x.Has|match.Packets
	case "bytes":
		x.Bytes, x.Has = r, x.Has|match.Bytes
	}
	return nil
}

// setMatch takes the name of the file of predicates. Of two, one would be a condition that
// is dropped.
func (p *Parser) setMatch(_ *option, arg string, _ bool) error {
	if p.cmd.MatchFile != "" {
		return errUsage("option `--match' can only be specified once")
	}
	if arg == "" {
		return errUsage("--match needs the name of a file")
	}
	p.cmd.MatchFile = arg
	return nil
}

// predicateFile is a file of --match, and what its predicates have met.
type predicateFile struct {
	lines   []predicateLine
	matcher *match.Matcher
	keys    []match.Key // if each predicate names one flow, they without doubles
	now     int64       // the time to which ages are counted

	each  bool // --count-each
	hits  []uint64
	met   []int32 // of one flow; memory is reused
	needs ctnetlink.Attr
	lacks ctnetlink.Attr // of needs, what some flow has not
}

// predicateLine is one predicate's place and text.
type predicateLine struct {
	number int
	text   string
}

// readPredicates reads and parses the file of --match.
func (s *session) readPredicates(c *Command) (*predicateFile, error) {
	from := s.stdin
	if c.MatchFile != "-" {
		f, err := os.Open(c.MatchFile)
		if err != nil {
			return nil, errUsage("Failed to open file " + c.MatchFile + " for reading: " + cause(err))
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(from)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.MatchFile, err)
	}
	file := &predicateFile{now: time.Now().UnixNano(), each: c.Has(OptCountEach)}
	predicates, err := file.parse(s.parser, s.argv[0], c.MatchFile, text)
	if err != nil {
		return nil, err
	}
	file.matcher = match.New(predicates)
	file.hits = make([]uint64, len(predicates))
	for i := range predicates {
		file.needs |= needed(&predicates[i])
	}
	file.keys = uniqueKeys(predicates)
	return file, nil
}

// parse parses all lines.
func (pf *predicateFile) parse(p *Parser, program, name string, text []byte) ([]match.Predicate, error) {
	// Lines use the labels of the command line.
	q := NewParser(p.Warnings, p.Posix)
	q.ProtocolsFile, q.ServicesFile, q.LabelFile = p.ProtocolsFile, p.ServicesFile, p.LabelFile
	if p.hasLabelFile {
		q.LabelFile = p.labelFile
	}
	most := bytes.Count(text, []byte("\n")) + 1
	predicates := make([]match.Predicate, 0, most)
	pf.lines = make([]predicateLine, 0, most)
	var objects format.PredicateReader
	var cmd Command
	var words wordSplitter
	x := newLinePredicate()
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimRight(line, "\r\n")
		rest := bytes.TrimLeft(line, " \t")
		if len(rest) == 0 || rest[0] == '#' {
			continue
		}
		var predicate match.Predicate
		var err error
		column := len(line) - len(rest) + 1
		if rest[0] == '{' {
			predicate, err = jsonPredicate(&objects, line, &column)
		} else {
			var argv []string
			if argv, err = words.split(program, line); err == nil {
				var word int
				predicate, word, err = q.parsePredicate(x, argv, &cmd)
				column = words.column(line, word)
			}
		}
		if err != nil {
			var bad *UsageError
			if !errors.As(err, &bad) {
				bad = errUsage(err.Error())
			}
			bad.File, bad.Line, bad.Column = name, number, column
			return nil, bad
		}
		predicates = append(predicates, predicate)
		pf.lines = append(pf.lines, predicateLine{number, string(rest)})
	}
	return predicates, nil
}

// column is where a word of line begins, from 1; 0 is the first word.
func (w *wordSplitter) column(line []byte, word int) int {
	at := 0
	for n := 1; ; n++ {
		for at < len(line) && isBlank(line[at]) {
			at++
		}
		if n >= word || at == len(line) {
			return at + 1
		}
		for at < len(line) && !isBlank(line[at]) && line[at] != '"' {
			at++
		}
		if at < len(line) && line[at] == '"' {
			w.unquoted = w.unquoted[:0]
			at = w.quoted(line, at+1)
		}
	}
}

func jsonPredicate(r *format.PredicateReader, line []byte, column *int) (match.Predicate, error) {
	if !feature.JSON {
		return match.Predicate{}, errUsage(withoutJSON)
	}
	predicate, err := r.Read(line)
	var bad *format.SyntaxError
	if errors.As(err, &bad) {
		*column = bad.Column
		return predicate, errUsage(bad.Problem)
	}
	return predicate, err
}

// needed are the attributes that flows have by a sysctl only, of those that p compares.
func needed(p *match.Predicate) (attrs ctnetlink.Attr) {
	if p.Has&match.Age != 0 {
		attrs |= ctnetlink.HasTimestampStart
	}
	if p.Has&(match.Packets|match.Bytes) != 0 || (p.Orig.Has|p.Reply.Has|p.Any.Has)&(match.TuplePackets|match.TupleBytes) != 0 {
		attrs |= ctnetlink.HasCountersOrig
	}
	return attrs
}

// uniqueKeys are the flows that the predicates name, or nil if one of them names none.
func uniqueKeys(predicates []match.Predicate) []match.Key {
	keys := []match.Key{}
	var seen map[match.Key]bool
	for i := range predicates {
		k, ok := predicates[i].Key()
		if !ok {
			return nil
		}
		if seen == nil {
			seen = make(map[match.Key]bool, len(predicates))
			keys = make([]match.Key, 0, len(predicates))
		}
		if !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	return keys
}

// match reports whether f meets a predicate.
func (pf *predicateFile) match(f *ctnetlink.Flow) bool {
	pf.lacks |= pf.needs &^ f.Has
	return pf.matcher.Match(f, pf.now)
}

// appendHits appends the predicates that f meets, for count.
func (pf *predicateFile) appendHits(dst []int32, f *ctnetlink.Flow) []int32 {
	if !feature.Match || pf == nil || !pf.each {
		return dst
	}
	return pf.matcher.AppendMatches(dst, f, pf.now)
}

// count counts a flow for the predicates that it has met.
func (pf *predicateFile) count(met []int32) {
	for _, i := range met {
		pf.hits[i]++
	}
}

// countFlow counts a flow of a command that is done with it when it has read it.
func (pf *predicateFile) countFlow(f *ctnetlink.Flow) {
	if !feature.Match || pf == nil || !pf.each {
		return
	}
	pf.met = pf.appendHits(pf.met[:0], f)
	pf.count(pf.met)
}

// printCounts prints for each line how many flows it has met, and warns of flows that
// could not meet a line because the kernel does not count or date them.
func (s *session) printCounts(c *Command) error {
	pf := s.predicates
	for _, w := range [...]struct {
		attr                     ctnetlink.Attr
		lacks, condition, sysctl string
	}{
		{ctnetlink.HasTimestampStart, "time of their beginning", "an age", "nf_conntrack_timestamp"},
		{ctnetlink.HasCountersOrig, "counters", "packets or bytes", "nf_conntrack_acct"},
	} {
		if pf.lacks&w.attr != 0 {
			s.warn("WARNING: flows without %s match no line with %s; new flows have them with net.netfilter.%s=1.", w.lacks, w.condition, w.sysctl)
		}
	}
	if !pf.each {
		return nil
	}
	for i, line := range pf.lines {
		if c.Output&OutJSON != 0 && feature.JSON {
			o := jsonout.Object{Dst: s.out.buf}
			o.Begin()
			o.Uint("line", uint64(line.number))
			o.Text("predicate", line.text)
			o.Uint("flows", pf.hits[i])
			o.Line()
			s.out.buf = o.Dst
		} else {
			s.out.buf = strconv.AppendUint(s.out.buf, pf.hits[i], 10)
			s.out.buf = append(s.out.buf, ' ')
			s.out.buf = append(append(s.out.buf, line.text...), '\n')
		}
		if err := s.out.next(); err != nil {
			return err
		}
	}
	return s.out.sync()
}

// candidates calls each for at least the flows that meet a predicate of --match.
func (s *session) candidates(c *Command, each func(*ctnetlink.Flow) error) (done bool, err error) {
	pf := s.predicates
	if !feature.Match || pf == nil || c.Table != TableConntrack || pf.keys == nil {
		return false, nil
	}
	conn, err := s.requestConn()
	if err != nil {
		return true, err
	}
	var got ctnetlink.Flow
	pipe := conn.NewPipeline(s.ctx, func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			if !isErrno(f.Err, unix.ENOENT) {
				return s.explain(c, f.Err)
			}
		}
		return b.Answers(func(_ int, m *nl.Message) error {
			if err := got.Decode(m.Attrs); err != nil {
				return err
			}
			return each(&got)
		})
	})
	err = s.request(pipe)
	if end := pipe.Close(); err == nil {
		err = end
	}
	return true, err
}

// request asks for the flows that the predicates name.
func (s *session) request(pipe *nl.Pipeline) error {
	var batch *nl.Batch
	var wanted ctnetlink.Flow
	for i := range s.predicates.keys {
		if batch == nil {
			b, err := pipe.Batch()
			if err != nil {
				return err
			}
			batch = b
		}
		key := &s.predicates.keys[i]
		wanted.Has, wanted.Orig, wanted.Zone = ctnetlink.HasZone, key.Orig, key.Zone
		batch.Add(nl.Request{Type: ctnetlink.TypeFlowGet, Family: key.Orig.Family, Attrs: wanted.Append})
		if batch.Full() {
			if err := pipe.Submit(batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	if batch == nil {
		return nil
	}
	return pipe.Submit(batch)
}

// unchanged prints the flows that --dry-run leaves as they are.
func (s *session) unchanged(c *Command) (uint64, error) {
	p := newPrinter(s.out, c)
	w := s.newFilter(c)
	var change ctnetlink.Flow
	err := s.eachCandidate(c, func(f *ctnetlink.Flow) error {
		if !w.match(f) || c.Op == OpUpdate && !setChange(&change, f, c) {
			return nil
		}
		s.predicates.countFlow(f)
		p.updateTime()
		return p.flow(f, nil)
	})
	if end := p.finish(); err == nil {
		err = end
	}
	return p.entries, err
}

// partlyRefused is the error of a command that the kernel refused some changes of, and that
// has made the others.
type partlyRefused struct {
	number uint64
	first  error
}

func (e *partlyRefused) Error() string {
	return fmt.Sprintf("%d flow entries have been refused, the first: %v", e.number, e.first)
}

func (e *partlyRefused) Unwrap() error { return e.first }
