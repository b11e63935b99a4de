package metrics

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// status is an HTTP status code.
type status int

// The status codes of answers (RFC 9110 section 15, RFC 6585 section 5).
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

// The limits of a request. One from Prometheus has 250 bytes in 6 fields.
const (
	maxHead   = 8 << 10 // bytes up to the empty line
	maxFields = 64
)

// path is the path of the metrics.
const path = "/metrics"

// readHead reads a request up to the empty line that ends its head. It returns
// errTooLarge if the head is longer than maxHead bytes. Bytes after the head are lost: a
// connection carries one request.
func readHead(r io.Reader) ([]byte, error) {
	buf := make([]byte, 0, 1024)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)] // doubles the capacity
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

// request is the part of a valid request that the answer depends on.
type request struct {
	head        bool // the client wants no body
	openMetrics bool // the client prefers OpenMetrics
}

// parse parses the head of a request (RFC 9112 sections 2 to 5).
func parse(text []byte) (status, request) {
	line, rest, _ := strings.Cut(string(text), "\n")
	method, target, version, ok := requestLine(strings.TrimSuffix(line, "\r"))
	if !ok {
		return statusBadRequest, request{}
	}
	req := request{head: method == "HEAD"}
	if !strings.HasPrefix(version, "HTTP/1.") {
		return statusVersion, req
	}
	f, ok := fields(rest)
	if !ok || f.hosts > 1 || f.hosts == 0 && version != "HTTP/1.0" {
		return statusBadRequest, req
	}
	switch {
	case !isMetrics(target):
		return statusNotFound, req
	case method != "GET" && !req.head:
		return statusNotAllowed, req
	}
	req.openMetrics = prefersOpenMetrics(f.accept)
	return statusOK, req
}

// requestLine parses the first line: three words with single spaces between them.
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

// fieldValues is the part of the header fields that the answer depends on.
type fieldValues struct {
	hosts  int    // the number of Host fields
	accept string // the values of all Accept fields, with commas between them
}

// fields parses header fields. ok is false if a line is not a field, or if there are more
// than maxFields.
func fields(head string) (f fieldValues, ok bool) {
	n := 0
	for line := range strings.Lines(head) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			return f, true
		}
		name, value, found := strings.Cut(line, ":")
		if n++; !found || !isToken(name) || !isFieldValue(value) || n > maxFields {
			return f, false // a folded line begins with a blank, which no token contains
		}
		switch {
		case strings.EqualFold(name, "Host"):
			f.hosts++
		case strings.EqualFold(name, "Accept"):
			f.accept += "," + value
		}
	}
	return f, false
}

// prefersOpenMetrics reports whether an Accept field (RFC 9110 section 12.5.1) names
// OpenMetrics 1.0 with at least the quality of the text format. A wildcard does not select
// OpenMetrics: curl sends one.
func prefersOpenMetrics(accept string) bool {
	var open, text float64
	var exact bool // text/plain itself is named
	for member := range strings.SplitSeq(accept, ",") {
		name, parameters, _ := strings.Cut(member, ";")
		q, version := 1.0, ""
		for p := range strings.SplitSeq(parameters, ";") {
			key, value, _ := strings.Cut(p, "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "q":
				if v, err := strconv.ParseFloat(value, 64); err == nil && v >= 0 && v <= 1 {
					q = v
				}
			case "version":
				version = value
			}
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "application/openmetrics-text":
			if version == "" || version == "1.0.0" {
				open = max(open, q)
			}
		case "text/plain":
			if !exact {
				exact, text = true, 0
			}
			if version == "" || version == "0.0.4" {
				text = max(text, q)
			}
		case "text/*", "*/*":
			if !exact {
				text = max(text, q)
			}
		}
	}
	return open > 0 && open >= text
}

// isMetrics reports whether a target is the path of the metrics, with or without a query, or
// a URL with that path, as proxies write it.
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
