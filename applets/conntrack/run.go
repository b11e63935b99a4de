package conntrack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ctbox/internal/feature"
	"ctbox/internal/nearest"
	"ctbox/internal/netns"
	"ctbox/internal/strerror"
	"ctbox/internal/version"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Run is the applet: it carries out the command line argv and returns the exit status.
// When ctx ends, an event stream ends with its footer and summary.
func Run(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	_, posix := os.LookupEnv("POSIXLY_CORRECT")
	s := &session{
		ctx:    ctx,
		argv:   argv,
		stdin:  stdin,
		stdout: stdout,
		stderr: stderr,
		parser: NewParser(stderr, posix),
	}
	defer s.close()
	var c Command
	if err := s.parser.Parse(argv, &c); err != nil {
		return s.fail(err)
	}
	return s.run(&c)
}

// session is one run of the program: its streams and its sockets.
type session struct {
	ctx            context.Context
	argv           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	parser         *Parser
	out            *output
	predicates     *predicateFile   // --match, or nil
	netns          *netns.Namespace // of all sockets; nil without --netns
	requests       *nl.Conn         // requests and dumps
	changes        *nl.Conn         // changes while a dump is read
}

// uncancelled returns the context of a single request. The kernel answers it during the
// send, so there is nothing to interrupt; a context without Done spares the program the
// catching of signals (see package main).
func (s *session) uncancelled() context.Context { return context.WithoutCancel(s.ctx) }

func (s *session) closeConns() {
	for _, c := range []*nl.Conn{s.requests, s.changes} {
		if c != nil {
			c.Close()
		}
	}
}

func (s *session) close() {
	s.closeConns()
	if s.out != nil {
		_ = s.out.close()
	}
	s.netns.Close()
}

// run carries out a command, prints the summary or error, and returns the exit status.
func (s *session) run(c *Command) int {
	s.out = newOutput(s.stdout)
	switch c.Op {
	case OpNone, OpHelp:
		s.out.buf = AppendHelp(s.out.buf, s.argv[0], c.HelpProto)
		return s.exitStatus(s.out.sync())
	case OpVersion:
		s.out.buf = AppendVersion(s.out.buf)
		return s.exitStatus(s.out.sync())
	}
	if c.Has(OptNetNS) {
		var err error
		if s.netns, err = netns.Open(c.NetNS); err != nil {
			return s.fail(fmt.Errorf("--netns %w", err))
		}
	}
	if c.Op == OpLoad {
		return s.exitStatus(s.load(c.LoadFile))
	}
	if feature.Match && c.Has(OptMatch) {
		file, err := s.readPredicates(c)
		if err != nil {
			return s.fail(err)
		}
		s.predicates = file
	}
	n, err := s.execute(c)
	if feature.Match && s.predicates != nil && (err == nil || n > 0) {
		if end := s.printCounts(c); err == nil {
			err = end
		}
	}
	if err != nil && !(partial(c) && (n > 0 || s.interrupted(err))) {
		return s.fail(err)
	}
	s.summary(c, n)
	var partly *partlyRefused
	switch {
	case feature.Match && errors.As(err, &partly) && c.Has(OptDistinctStatus) && n > 0:
		s.fail(err)
		return exitPartly
	case err != nil:
		return s.fail(err)
	case n == 0 && c.Has(OptDistinctStatus):
		return exitNoMatch
	case n == 0 && wantsMatch(c):
		return exitFailed
	}
	return exitOK
}

func (s *session) exitStatus(err error) int {
	if err != nil {
		return s.fail(err)
	}
	return exitOK
}

// execute carries out one command and returns the number of entries. It prints the
// entries; the caller prints the summary.
func (s *session) execute(c *Command) (uint64, error) {
	expect := c.Table == TableExpect
	switch c.Op {
	case OpList:
		if expect {
			return s.listExpects(c)
		}
		return s.list(c)
	case OpGet:
		if expect {
			return s.getExpect(c)
		}
		return s.get(c)
	case OpCreate, OpAdd:
		return s.create(c)
	case OpUpdate, OpDelete:
		switch {
		case expect:
			return s.deleteExpect(c)
		case feature.Match && c.Has(OptDryRun):
			return s.unchanged(c)
		case c.Op == OpUpdate:
			return s.update(c)
		}
		return s.delete(c)
	case OpFlush:
		return 0, s.flush(c)
	case OpEvents:
		return s.events(c)
	case OpCount:
		n, err := s.count(c)
		if s.predicates == nil {
			n = 0
		}
		return n, err
	case OpStats:
		return 0, s.stats(c)
	case OpTop:
		if feature.Top {
			return 0, s.top(c)
		}
	}
	return 0, fmt.Errorf("command %d cannot be carried out", c.Op)
}

// partial reports whether a failed command may have done a part of its work, so that the
// summary precedes the error.
func partial(c *Command) bool {
	return c.Op == OpDelete || c.Op == OpUpdate || c.Op == OpEvents
}

// wantsMatch reports whether no match at all is a failure.
func wantsMatch(c *Command) bool {
	switch c.Op {
	case OpGet, OpUpdate, OpDelete:
		return c.Table == TableConntrack
	}
	return false
}

// summaries are printed after a command, behind the number of entries. They are always
// in the plural, as scripts expect.
var summaries = map[Op]struct{ flows, expects string }{
	OpList:   {" flow entries have been shown.", " expectations have been shown."},
	OpGet:    {" flow entries have been shown.", ""},
	OpCreate: {" flow entries have been created.", ""},
	OpAdd:    {" flow entries have been added.", ""},
	OpUpdate: {" flow entries have been updated.", ""},
	OpDelete: {" flow entries have been deleted.", " expectations have been deleted."},
	OpEvents: {" flow events have been shown.", " expectation events have been shown."},
}

func (s *session) summary(c *Command, n uint64) {
	texts := summaries[c.Op]
	text := texts.flows
	if c.Table == TableExpect {
		text = texts.expects
	}
	if c.Has(OptDryRun) {
		text = strings.Replace(text, "have been", "would be", 1)
	}
	if text != "" {
		fmt.Fprintf(s.stderr, "%s%d%s\n", messagePrefix, n, text)
	}
}

// interrupted reports whether err only reports that the user has ended the run.
func (s *session) interrupted(err error) bool {
	return s.ctx.Err() != nil && errors.Is(err, context.Canceled)
}

// exitInterrupted returns the status that a shell gives a command ended by a signal.
func (s *session) exitInterrupted() int {
	var by interface{ Signal() syscall.Signal }
	if errors.As(context.Cause(s.ctx), &by) {
		return 128 + int(by.Signal())
	}
	return exitFailed
}

// fail prints err in one line and returns the exit status.
func (s *session) fail(err error) int {
	var bad *UsageError
	var write *writeError
	switch {
	case errors.As(err, &bad):
		message := bad.AppendMessage(nil)
		if bad.Hint != "" {
			message = append(append(append(message, "Hint: "...), bad.Hint...), '\n')
		}
		_, _ = s.stderr.Write(message)
		return bad.Status
	case s.interrupted(err):
		return s.exitInterrupted()
	case errors.As(err, &write) && write.quiet():
		return exitFailed
	}
	fmt.Fprintf(s.stderr, "%s%v\n", messagePrefix, err)
	return exitFailed
}

// warn prints a line without the program's name in front.
func (s *session) warn(format string, args ...any) {
	fmt.Fprintf(s.stderr, format+"\n", args...)
}

// requestConn returns the socket for requests and dumps, which it opens on first use.
func (s *session) requestConn() (*nl.Conn, error) { return s.open(&s.requests) }

// changeConn returns the socket for changes that are made while a dump is read.
func (s *session) changeConn() (*nl.Conn, error) { return s.open(&s.changes) }

func (s *session) open(c **nl.Conn) (*nl.Conn, error) {
	if *c == nil {
		conn, err := nl.Dial(nl.Config{NetNS: s.netns.FD()})
		if err != nil {
			return nil, &failure{"Can't open handler", err}
		}
		*c = conn
	}
	return *c, nil
}

// explain turns the kernel's refusal of c into the user's message. It returns other
// errors unchanged.
func (s *session) explain(c *Command, err error) error {
	var k *nl.Error
	var explained *refusal
	if !errors.As(err, &k) || errors.As(err, &explained) {
		return err
	}
	r := &refusal{op: c.Op, table: c.Table, err: err}
	if k.Errno == unix.EINVAL && s.noConntrack() {
		r.hint = hintNoConntrack
	}
	return r
}

const hintNoConntrack = "this kernel has no nf_conntrack_netlink"

// noConntrack reports whether the kernel refuses even a request without parameters.
func (s *session) noConntrack() bool {
	conn, err := nl.Dial(nl.Config{NetNS: s.netns.FD()})
	if err != nil {
		return false
	}
	defer conn.Close()
	_, _, err = ctnetlink.Count(s.ctx, conn)
	return isErrno(err, unix.EINVAL, unix.EOPNOTSUPP)
}

// messagePrefix begins every summary and error on stderr. It is conntrack-tools' own
// prefix because programs anchor their patterns on it ("conntrack v<number>
// (conntrack-tools): N flow entries have been …"). The first word is always
// "conntrack", whatever the link is called.
const messagePrefix = "conntrack v" + version.ConntrackTools + " (conntrack-tools): "

const tryHelp = "Try `conntrack -h' or 'conntrack --help' for more information.\n"

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // something else than the command line
	exitUsage  = 2 // the command line

	// With --distinct-status.
	exitNoMatch = 3 // no flow has matched
	exitPartly  = 4 // the kernel refused some of the changes
)

// UsageError is the error of a command line that is not understood or not allowed.
// Nothing has been done.
type UsageError struct {
	Text   string
	Status int // the exit status, exitUsage or exitFailed
	// File and Line are the place in a load file, Column also that in a file of --match, a
	// byte of the line from 1; File is "" for the command line.
	File         string
	Line, Column int
	// Hint is printed after the message, in a line of its own: words that are valid, or "".
	Hint string
}

// meant adds a hint about a wrong word: which of the valid words is near to it, and then
// the list of them, which title introduces, unless it is "".
func (e *UsageError) meant(word string, valid []string, title string) *UsageError {
	var hint []string
	if near := nearest.Word(word, valid); near != "" {
		hint = append(hint, "did you mean "+near+"?")
	}
	if title != "" {
		hint = append(hint, title+": "+strings.Join(valid, ", ")+".")
	}
	e.Hint = strings.Join(hint, " ")
	return e
}

func (e *UsageError) Error() string {
	if e.File == "" {
		return e.Text
	}
	place := e.File + ":" + strconv.Itoa(e.Line)
	if e.Column > 0 {
		place += ":" + strconv.Itoa(e.Column)
	}
	return place + ": " + e.Text
}

// AppendMessage appends what is printed on stderr: the program's name, the text and, for
// exit status 2, a pointer to the help.
func (e *UsageError) AppendMessage(dst []byte) []byte {
	dst = append(dst, messagePrefix...)
	dst = append(dst, e.Error()...)
	dst = append(dst, '\n')
	if e.Status == exitUsage {
		dst = append(dst, tryHelp...)
	}
	return dst
}

// errUsage returns the error of a wrong command line, exit status 2.
func errUsage(text string) *UsageError { return &UsageError{Text: text, Status: exitUsage} }

// errRefused returns the error of a command line for which conntrack-tools has exit
// status 1.
func errRefused(text string) *UsageError { return &UsageError{Text: text, Status: exitFailed} }

// refusal is the kernel's error for a command, in the words of conntrack(8).
type refusal struct {
	op    Op
	table Table
	err   error
	hint  string // the reason, if known, printed in parentheses
}

func (r *refusal) Unwrap() error { return r.err }

// Error is "Operation failed: TEXT" in the words of conntrack-tools. The kernel's own
// explanation (its extended acknowledgement) follows in parentheses, where programs that
// match the text still find it in front.
func (r *refusal) Error() string {
	text := "Operation failed: " + r.text()
	var k *nl.Error
	if errors.As(r.err, &k) && k.Text != "" {
		text += " (kernel: " + k.Text + ")"
	}
	if r.hint != "" {
		text += " (" + r.hint + ")"
	}
	return text
}

func (r *refusal) text() string {
	var errno unix.Errno
	if !errors.As(r.err, &errno) {
		return r.err.Error()
	}
	if r.hint == hintFixedTimeout {
		return strerror.Text(errno) // no privilege is missing
	}
	on := onConntrack
	if r.table == TableExpect {
		on = onExpect
	}
	for _, row := range refusalTexts {
		if row.errno == errno && row.on&on != 0 && (row.ops == nil || slices.Contains(row.ops, r.op)) {
			return row.text
		}
	}
	return strerror.Text(errno)
}

// errENOTSUPP is the kernel's internal error number, for which the C library has no name.
const errENOTSUPP = unix.Errno(524)

const (
	onConntrack uint8 = 1 << iota
	onExpect
)

// refusalText is the text for an error of some commands; nil is all of them.
type refusalText struct {
	errno unix.Errno
	on    uint8
	ops   []Op
	text  string
}

// refusalTexts are searched in order. Other errors have the text of strerror(3).
var refusalTexts = [...]refusalText{
	{unix.EPERM, onConntrack | onExpect, nil, "sorry, you must be root or get CAP_NET_ADMIN capability to do this"},
	{errENOTSUPP, onConntrack, []Op{OpList}, "function not implemented"},
	{unix.EINVAL, onConntrack, []Op{OpList, OpCreate, OpUpdate, OpDelete, OpGet, OpFlush, OpEvents, OpCount, OpTop}, "invalid parameters"},
	{unix.EINVAL, onExpect, []Op{OpList, OpCreate, OpDelete, OpGet, OpFlush, OpEvents}, "invalid parameters"},
	{unix.EEXIST, onConntrack, []Op{OpCreate}, "Such conntrack exists, try -U to update"},
	{unix.ENOENT, onConntrack, []Op{OpCreate, OpGet, OpDelete, OpAdd}, "such conntrack doesn't exist"},
	{unix.ENOENT, onExpect, []Op{OpCreate}, "master conntrack not found"},
	{unix.ENOMEM, onConntrack, []Op{OpCreate, OpGet, OpAdd}, "not enough memory"},
	{unix.EAFNOSUPPORT, onConntrack, []Op{OpGet}, "protocol not supported"},
	{unix.ETIME, onConntrack, []Op{OpCreate, OpAdd}, "conntrack has expired"},
}

// isErrno reports whether the kernel refused with one of the errors.
func isErrno(err error, errnos ...unix.Errno) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && slices.Contains(errnos, errno)
}

// failure is an error in the words of conntrack(8), and its cause.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text + ": " + f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }
