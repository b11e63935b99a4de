package ssdp

import (
	"bytes"
	"net/netip"
	"strings"

	"ctbox/helpers/helper"
)

// longest is the size that a header field's value stays below.
const longest = 256

// header returns the value of the first header field in b that begins with start,
// its name in any case and what stands before the value, and the value's offset.
// It returns nil if there is none before the empty line that ends the header.
func header(b []byte, start string) (value []byte, at int) {
	for at < len(b) {
		line := b[at:]
		if len(line) >= len(start) && strings.EqualFold(string(line[:len(start)]), start) {
			value = line[len(start):]
			if end := bytes.IndexByte(value, '\r'); end >= 0 && end < longest {
				return value[:end], at + len(start)
			}
			return nil, 0
		}
		end := bytes.Index(line, crlf)
		if end <= 0 {
			return nil, 0
		}
		at += end + len(crlf)
	}
	return nil, 0
}

var crlf = []byte("\r\n")

// authority is what an "http" URL has between its scheme and its path.
type authority struct {
	addr    netip.Addr
	port    uint16
	at, len int // of address and port as text, in the URL
}

// parseURL reads the beginning of a URL: "http://", an address of digits, IPv6 in
// brackets, and a port from 1 to 65535, 80 if there is none. Hosts' names are not
// read.
func parseURL(url []byte) (u authority, ok bool) {
	const scheme = "http://"
	if len(url) < len(scheme) || !strings.EqualFold(string(url[:len(scheme)]), scheme) {
		return u, false
	}
	text := url[len(scheme):]
	if end := bytes.IndexAny(text, "/?#"); end >= 0 { // RFC 3986, 3.2
		text = text[:end]
	}
	host, port := text, []byte(nil)
	if len(text) > 0 && text[0] == '[' {
		end := bytes.IndexByte(text, ']')
		if end < 0 {
			return u, false
		}
		host, port = text[1:end], text[end+1:]
	} else if colon := bytes.IndexByte(text, ':'); colon >= 0 {
		host, port = text[:colon], text[colon:]
	}
	u = authority{port: 80, at: len(scheme), len: len(text)}
	if len(port) > 0 {
		n, digits := helper.Number(port[1:], 65535)
		if port[0] != ':' || n == 0 || digits != len(port)-1 {
			return u, false
		}
		u.port = uint16(n)
	}
	u.addr = helper.Addr(host)
	return u, u.addr.IsValid() && u.addr.Is6() == (text[0] == '[')
}

// announced says that the URL at this offset of the payload is to be changed with
// the expectation. The port is then always written.
func (u authority) announced(at int) *helper.Announced {
	return &helper.Announced{At: at + u.at, Len: u.len, Append: appendEnd}
}

func appendEnd(dst []byte, to netip.AddrPort) []byte { return to.AppendTo(dst) }
