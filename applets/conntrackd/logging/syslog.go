package logging

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"
)

// Severities of syslog(3) that the daemon uses.
const (
	severityError   = 3
	severityWarning = 4
	severityNotice  = 5
	severityInfo    = 6
)

// ident is the program name in conntrackd's lines, as in conntrack-tools.
const ident = "conntrack-tools"

// syslogSocket is where the system's logger listens (_PATH_LOG).
const syslogSocket = "/dev/log"

// syslogPatience is how long a spool's goroutine waits for the logger. A message that the
// logger has not accepted by then is lost.
const syslogPatience = 50 * time.Millisecond

// Syslog sends messages to the system's logger as syslog(3) does with LOG_PID. It is used by
// one goroutine.
type Syslog struct {
	facility uint8
	socket   string
	conn     net.Conn // nil if not connected
	stream   bool     // a stream socket: messages end with a zero byte
	retry    time.Time
	buf      []byte
	lost     uint64 // messages that deliver lost since the last one it sent
}

// NewSyslog returns a Syslog for a facility, numbered as in syslog(3). It connects when the
// first message is sent.
func NewSyslog(facility uint8) *Syslog { return &Syslog{facility: facility, socket: syslogSocket} }

// Send sends a message and reports whether the logger accepted it.
func (s *Syslog) Send(severity uint8, at time.Time, text []byte) bool {
	b := append(s.buf[:0], '<')
	b = strconv.AppendUint(b, uint64(s.facility|severity), 10)
	b = at.AppendFormat(append(b, '>'), "Jan _2 15:04:05 ")
	b = strconv.AppendInt(append(append(b, ident...), '['), int64(os.Getpid()), 10)
	b = append(append(b, "]: "...), text...)
	s.buf = b
	// The second try reaches a logger that was restarted.
	for range 2 {
		if s.conn == nil && !s.connect() {
			return false
		}
		if s.stream {
			b = append(b, 0)
		}
		s.conn.SetWriteDeadline(time.Now().Add(syslogPatience))
		_, err := s.conn.Write(b)
		if err == nil {
			return true
		}
		s.Close()
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return false
		}
		b = s.buf
	}
	return false
}

// deliver sends a message, preceded by the number of messages that were lost before it.
func (s *Syslog) deliver(severity uint8, at time.Time, text []byte) {
	if s.lost > 0 {
		note := lostNote(s.lost, "the system's logger")
		if !s.Send(note.level.severity, note.at, []byte(note.text)) {
			s.lost++
			return
		}
		s.lost = 0
	}
	if !s.Send(severity, at, text) {
		s.lost++
	}
}

// newSyslogSpool returns the spool of s. It closes s when it ends.
func newSyslogSpool(s *Syslog) *spool {
	return newSpool(logRoom, func(b *batch, lost uint64) {
		b.each(func(l line, text []byte) { s.deliver(l.severity, l.at, text) })
		s.lost += lost
	}, s.Close)
}

// connect connects to the logger and reports success. After a failure it does not try again
// for a second.
func (s *Syslog) connect() bool {
	if time.Now().Before(s.retry) {
		return false
	}
	for _, network := range [...]string{"unixgram", "unix"} {
		dialer := net.Dialer{Timeout: syslogPatience}
		conn, err := dialer.DialUnix(context.Background(), network, nil, &net.UnixAddr{Name: s.socket, Net: network})
		if err == nil {
			s.conn, s.stream = conn, network == "unix"
			return true
		}
	}
	s.retry = time.Now().Add(time.Second)
	return false
}

// Close closes the connection. Send opens it again.
func (s *Syslog) Close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}
