package conntrack

import (
	"strconv"

	"ctbox/internal/version"
)

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
)

// UsageError is a command line that is not understood or not allowed. Nothing
// has been done.
type UsageError struct {
	Text   string
	Status int // the exit status, exitUsage or exitFailed
	// File and Line say where a load file's line is wrong; "" is the command line.
	File string
	Line int
}

func (e *UsageError) Error() string {
	if e.File == "" {
		return e.Text
	}
	return e.File + ":" + strconv.Itoa(e.Line) + ": " + e.Text
}

// AppendMessage appends what is printed on stderr: the text with the program in
// front and, for errors of usage proper, a pointer to the help.
func (e *UsageError) AppendMessage(dst []byte) []byte {
	dst = append(dst, messagePrefix...)
	dst = append(dst, e.Error()...)
	dst = append(dst, '\n')
	if e.Status == exitUsage {
		dst = append(dst, tryHelp...)
	}
	return dst
}

// usage makes an error of usage, exit status 2.
func usage(text string) *UsageError { return &UsageError{Text: text, Status: exitUsage} }

// refused makes an error of usage that conntrack-tools counts as a failure,
// exit status 1.
func refused(text string) *UsageError { return &UsageError{Text: text, Status: exitFailed} }
