// Package metrics serves metrics over HTTP to Prometheus and other scrapers. It implements
// the part of HTTP/1.1 (RFC 9110, RFC 9112) that a scrape needs: one path, no request body,
// one request per connection. The work that clients can cause is bounded: the size and
// duration of a request, the number of clients, and how often metrics are collected.
package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"ctbox/applets/conntrackd/accept"
	"ctbox/internal/listen"
)

// The limits for clients.
const (
	readTimeout  = 5 * time.Second  // for a whole request
	writeTimeout = 10 * time.Second // for reading the answer
	lingerTime   = time.Second      // for closing the connection
	lingerBytes  = 64 << 10         // sent after the request and discarded

	maxClients = 8  // served at the same time
	maxLinger  = 32 // lingering at the same time; further connections are closed at once

	// maxAge is how long a collected text is served again.
	maxAge = 200 * time.Millisecond
)

// The media types of the two text formats.
const (
	typePrometheus  = "text/plain; version=0.0.4; charset=utf-8"
	typeOpenMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// Server answers scrapes. Its fields must not change after Serve is called.
type Server struct {
	// Metrics returns the text to serve, as OpenMetrics or in Prometheus' text
	// format. Calls do not overlap.
	Metrics func(_ context.Context, openMetrics bool) ([]byte, error)
	Log     *slog.Logger

	mu                      sync.Mutex // held while Metrics runs
	prometheus, openMetrics rendered   // the last text in each format

	// Set by tests; zero is the default.
	readTimeout, writeTimeout time.Duration
}

// rendered is a text and the time it was collected. The bytes never change.
type rendered struct {
	text []byte
	at   time.Time
}

// Listen opens a listening socket.
func Listen(at netip.AddrPort) (*listen.Listener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	return listen.TCP(network, at, nil)
}

// Serve answers the clients of l until ctx ends, and returns when l is closed and the last
// client is answered. An error means that l was closed by someone else.
func (s *Server) Serve(ctx context.Context, l *listen.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	served, lingering := accept.NewPool(maxClients), accept.NewPool(maxLinger)
	defer lingering.Wait()
	defer served.Wait()
	defer cancel()
	// part closes the connection of a client that has been answered.
	part := func(conn *net.TCPConn) {
		if !lingering.Try(func() { linger(ctx, conn) }) {
			conn.Close()
		}
	}
	loop := accept.Loop[*net.TCPConn]{Name: "metrics", Log: s.Log, Accept: l.AcceptTCP, Close: l.Close, Handle: func(conn *net.TCPConn) {
		if !served.Try(func() { s.serve(ctx, conn); part(conn) }) {
			// The socket's buffer is empty: this does not block.
			s.answer(conn, statusUnavailable, request{}, nil)
			part(conn)
		}
	}}
	return loop.Run(ctx)
}

// serve answers one client, unless it leaves without a request.
func (s *Server) serve(ctx context.Context, conn *net.TCPConn) {
	// When the daemon ends, clients that have sent their request are still answered.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
	defer stop()
	conn.SetReadDeadline(time.Now().Add(orElse(s.readTimeout, readTimeout)))
	if ctx.Err() != nil { // it may have ended before the deadline was set
		conn.SetReadDeadline(time.Now())
	}
	head, err := readHead(conn)
	code, req := statusBadRequest, request{}
	switch {
	case err == nil:
		code, req = parse(head)
	case errors.Is(err, errTooLarge):
		code = statusTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
		code = statusTimeout
	case errors.Is(err, io.EOF) && ctx.Err() == nil:
		// An incomplete request: the client may still read the answer.
	default:
		return
	}
	var text []byte
	if code == statusOK {
		if text, err = s.metrics(ctx, req.openMetrics); err != nil {
			code = statusUnavailable
		}
	}
	s.answer(conn, code, req, text)
}

// metrics returns the text in a format. It is at most maxAge old.
func (s *Server) metrics(ctx context.Context, openMetrics bool) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := &s.prometheus
	if openMetrics {
		last = &s.openMetrics
	}
	if last.text == nil || time.Since(last.at) > maxAge {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		text, err := s.Metrics(ctx, openMetrics)
		if err != nil {
			return nil, err
		}
		*last = rendered{text, time.Now()}
	}
	return last.text, nil
}

// answer writes an answer: its head and, unless the request was HEAD, its body, which
// is text or the reason of a refusal. If a write fails, the client has gone.
func (s *Server) answer(conn *net.TCPConn, code status, req request, text []byte) {
	kind := typePrometheus
	if req.openMetrics {
		kind = typeOpenMetrics
	}
	if code != statusOK {
		kind = "text/plain; charset=utf-8"
		text = []byte(statusTexts[code] + "\n")
		switch code {
		case statusNotFound:
			text = []byte("Not Found: the metrics are at " + path + "\n")
		case statusUnavailable:
			text = nil // the request was not read: it may be HEAD
		}
	}
	dst := append(strconv.AppendInt([]byte("HTTP/1.1 "), int64(code), 10), ' ')
	dst = append(append(dst, statusTexts[code]...), "\r\nDate: "...)
	dst = time.Now().UTC().AppendFormat(dst, "Mon, 02 Jan 2006 15:04:05 GMT")
	dst = append(append(dst, "\r\nContent-Type: "...), kind...)
	dst = strconv.AppendInt(append(dst, "\r\nContent-Length: "...), int64(len(text)), 10)
	switch code {
	case statusOK:
		dst = append(dst, "\r\nVary: Accept"...)
	case statusNotAllowed:
		dst = append(dst, "\r\nAllow: GET, HEAD"...)
	case statusUnavailable:
		dst = append(dst, "\r\nRetry-After: 1"...)
	}
	dst = append(dst, "\r\nConnection: close\r\n\r\n"...)
	conn.SetWriteDeadline(time.Now().Add(orElse(s.writeTimeout, writeTimeout)))
	if _, err := conn.Write(dst); err == nil && !req.head {
		conn.Write(text)
	}
}

// linger closes a connection after the client has closed it, or after lingerTime. Closing it
// with unread input would reset it, and the client could lose part of its answer
// (RFC 9112 section 9.6).
func linger(ctx context.Context, conn *net.TCPConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	if conn.CloseWrite() != nil || conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil || ctx.Err() != nil {
		return
	}
	io.CopyN(io.Discard, struct{ io.Reader }{conn}, lingerBytes)
}

func orElse(d, usual time.Duration) time.Duration {
	if d != 0 {
		return d
	}
	return usual
}
