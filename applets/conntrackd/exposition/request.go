package exposition

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

// status is a status code of HTTP.
type status int

// What a client can be answered (RFC 9110 section 15, RFC 6585 section 5).
const (
	statusOK          status = 200
	statusBadRequest  status = 400
	statusNotFound    status = 404
	statusNotAllowed  status = 405
	statusTimeout     status = 408
	statusTooLarge    status = 431
	statusUnavailable status = 503
	statusVersion     status = 505
)

var statusTexts = map[status]string{
	statusOK:          "OK",
	statusBadRequest:  "Bad Request",
	statusNotFound:    "Not Found",
	statusNotAllowed:  "Method Not Allowed",
	statusTimeout:     "Request Timeout",
	statusTooLarge:    "Request Header Fields Too Large",
	statusUnavailable: "Service Unavailable",
	statusVersion:     "HTTP Version Not Supported",
}

// The limits of a request. Prometheus' has 250 bytes in 6 fields.
const (
	maxHead   = 8 << 10 // bytes up to the empty line
	maxFields = 64
)

// path is where the metrics are.
const path = "/metrics"

// readHead reads a request up to the empty line that ends its head. It returns
// errTooLarge when that does not come within maxHead bytes. What r gives beyond the
// head is lost: there is one request in a connection.
func readHead(r io.Reader) ([]byte, error) {
	buf := make([]byte, 0, 1024)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)] // twice the room
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), maxHead)])
		seen := max(len(buf)-3, 0)
		buf = buf[:len(buf)+n]
		if end := headEnd(buf[seen:]); end >= 0 {
			return buf[:seen+end], nil
		}
		switch {
		case len(buf) == maxHead:
			return nil, errTooLarge
		case err != nil:
			return nil, err
		}
	}
}

var errTooLarge = errors.New("the request is too large")

// headEnd returns where the empty line in b ends, or -1. Lines end in CR LF, or in LF
// alone, as RFC 9112 section 2.2 allows.
func headEnd(b []byte) int {
	end := -1
	for _, empty := range [...]string{"\n\r\n", "\n\n"} {
		if i := bytes.Index(b, []byte(empty)); i >= 0 && (end < 0 || i+len(empty) < end) {
			end = i + len(empty)
		}
	}
	return end
}

// parse judges the head of a request (RFC 9112 sections 2 to 5). head says that the
// client wants no body.
func parse(request []byte) (s status, head bool) {
	line, rest, _ := strings.Cut(string(request), "\n")
	method, target, version, ok := requestLine(strings.TrimSuffix(line, "\r"))
	if !ok {
		return statusBadRequest, false
	}
	head = method == "HEAD"
	if !strings.HasPrefix(version, "HTTP/1.") {
		return statusVersion, head
	}
	hosts, ok := fields(rest)
	if !ok || hosts > 1 || hosts == 0 && version != "HTTP/1.0" {
		return statusBadRequest, head
	}
	switch {
	case !isMetrics(target):
		return statusNotFound, head
	case method != "GET" && !head:
		return statusNotAllowed, head
	}
	return statusOK, head
}

// requestLine takes the first line apart: three words with one space between them.
func requestLine(line string) (method, target, version string, ok bool) {
	words := strings.Split(line, " ")
	if len(words) != 3 {
		return "", "", "", false
	}
	method, target, version = words[0], words[1], words[2]
	number, isHTTP := strings.CutPrefix(version, "HTTP/")
	ok = isToken(method) && target != "" && isHTTP && len(number) == 3 && isDigit(number[0]) && number[1] == '.' && isDigit(number[2])
	for i := range len(target) {
		ok = ok && target[i] > ' ' && target[i] < 0x7f
	}
	return method, target, version, ok
}

// fields counts the Host fields of a head; ok is false if it has a line that is no
// field, or too many of them.
func fields(head string) (hosts int, ok bool) {
	n := 0
	for line := range strings.Lines(head) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			return hosts, true
		}
		name, value, found := strings.Cut(line, ":")
		if n++; !found || !isToken(name) || !isFieldValue(value) || n > maxFields {
			return 0, false // a folded line starts with a blank, which is no token
		}
		if strings.EqualFold(name, "Host") {
			hosts++
		}
	}
	return 0, false
}

// isMetrics reports whether a target names the metrics, with or without a query: as a
// path, or behind a host as proxies write it.
func isMetrics(target string) bool {
	const scheme = "http://"
	if len(target) >= len(scheme) && strings.EqualFold(target[:len(scheme)], scheme) {
		target = target[len(scheme):]
		i := strings.IndexAny(target, "/?#") // what ends the host (RFC 3986 section 3.2)
		if i <= 0 || target[i] != '/' {
			return false
		}
		target = target[i:]
	}
	target, _, _ = strings.Cut(target, "?")
	return target == path
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && !isDigit(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isFieldValue reports whether s has no control characters (RFC 9110 section 5.5).
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
