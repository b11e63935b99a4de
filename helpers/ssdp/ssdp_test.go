package ssdp

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

const (
	client  = "192.0.2.2:41000"
	groupV4 = "239.255.255.250:1900"
	outside = "198.51.100.1:41000" // the client behind NAT
	device  = "198.51.100.9:1900"
	web     = "198.51.100.9:49152" // the device's description
)

const (
	question = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n"
	found    = "HTTP/1.1 200 OK\r\nLOCATION: http://198.51.100.9:49152/d.xml\r\n\r\n"
	order    = "SUBSCRIBE /evt HTTP/1.1\r\nHOST: 198.51.100.9:49152\r\n" +
		"CALLBACK: <http://192.0.2.2:5000/cb>\r\nNT: upnp:event\r\n\r\n"
	event = "NOTIFY /cb HTTP/1.1\r\nHOST: 192.0.2.2:5000\r\nNT: upnp:event\r\n\r\n"
)

func TestSearch(t *testing.T) {
	const expected = "accept; udp *:* -> 192.0.2.2:41000 permanent helper=ssdp"
	const expected6 = "accept; udp *:* -> [2001:db8::2]:41000 permanent helper=ssdp"
	for _, c := range []struct {
		name              string
		info              helper.Info
		src, dst, payload string
		want              string
	}{
		{"to the group", helper.New, client, groupV4, question, expected},
		{"no more than the method", helper.New, client, groupV4, "M-SEARCH", expected},
		{"to another port", helper.New, client, "239.255.255.250:1901", question, expected},
		{"IPv6 of the link", helper.New, "[2001:db8::2]:41000", "[ff02::c]:1900", question, expected6},
		{"IPv6 of the site", helper.New, "[2001:db8::2]:41000", "[ff05::c]:1900", question, expected6},
		{"IPv6 of the organization", helper.New, "[2001:db8::2]:41000", "[ff08::c]:1900", question, "accept"},
		{"another group", helper.New, client, "239.255.255.251:1900", question, "accept"},
		{"unicast", helper.New, client, device, question, "accept"},
		{"lower case", helper.New, client, groupV4, strings.ToLower(question), "accept"},
		{"advertisement", helper.New, client, groupV4, "NOTIFY * HTTP/1.1\r\nLOCATION: http://192.0.2.2:80/\r\n\r\n", "accept"},
		{"not the first", helper.Established, client, groupV4, question, "accept"},
		{"blank before", helper.New, client, groupV4, " " + question, "accept"},
		{"nothing", helper.New, client, groupV4, "", "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, c.src, c.dst)
			if got := f.SendAs(c.info, c.payload); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, groupV4)
	if got := f.SendAs(helper.New, question); got != "accept" {
		t.Errorf("over TCP: %s", got)
	}
}

func TestLocation(t *testing.T) {
	const expected = "accept; tcp *:* -> 198.51.100.9:49152 permanent helper=ssdp"
	at := func(port string) string { return strings.Replace(expected, "49152", port, 1) }
	filled := func(n int) string { // a value of n bytes
		const url = "http://198.51.100.9:49152/"
		return "LOCATION: " + url + strings.Repeat("d", n-len(url)) + "\r\n"
	}
	for _, c := range []struct{ name, payload, want string }{
		{"answer", found, expected},
		{"in the first line", "LOCATION: http://198.51.100.9:49152/\r\n", expected},
		{"behind other fields", "HTTP/1.1 200 OK\r\nEXT: \r\nX-LOCATION: http://198.51.100.9:1/\r\nLOCATION: http://198.51.100.9:49152/\r\n\r\n", expected},
		{"ends with CR", "LOCATION: http://198.51.100.9:49152/\r", expected},
		{"no path", "LOCATION: http://198.51.100.9:49152\r\n", expected},
		{"any case", "Location: HTTP://198.51.100.9:8080/\r\n", at("8080")},
		{"no port", "LOCATION: http://198.51.100.9/d.xml\r\n", at("80")},
		{"neither port nor path", "LOCATION: http://198.51.100.9\r\n", at("80")},
		{"no port, a query with a colon", "LOCATION: http://198.51.100.9?a:1\r\n", at("80")},
		{"port 1", "LOCATION: http://198.51.100.9:1/\r\n", at("1")},
		{"port 65535", "LOCATION: http://198.51.100.9:65535/\r\n", at("65535")},
		{"value of 255 bytes", filled(255), expected},

		{"value of 256 bytes", filled(256), "accept"},
		{"port 0", "LOCATION: http://198.51.100.9:0/\r\n", "accept"},
		{"port 65536", "LOCATION: http://198.51.100.9:65536/\r\n", "accept"},
		{"port 65616", "LOCATION: http://198.51.100.9:65616/\r\n", "accept"},
		{"port 4294967376", "LOCATION: http://198.51.100.9:4294967376/\r\n", "accept"},
		{"empty port", "LOCATION: http://198.51.100.9:/\r\n", "accept"},
		{"negative port", "LOCATION: http://198.51.100.9:-1/\r\n", "accept"},
		{"port with letters", "LOCATION: http://198.51.100.9:80a/\r\n", "accept"},
		{"no blank", "LOCATION:http://198.51.100.9:49152/\r\n", "accept"},
		{"two blanks", "LOCATION:  http://198.51.100.9:49152/\r\n", "accept"},
		{"https", "LOCATION: https://198.51.100.9:49152/\r\n", "accept"},
		{"host's name", "LOCATION: http://device.example:49152/\r\n", "accept"},
		{"name that begins with an address", "LOCATION: http://198.51.100.9.example:49152/\r\n", "accept"},
		{"user", "LOCATION: http://198.51.100.9:49152@198.51.100.8:80/\r\n", "accept"},
		{"IPv6 URL", "LOCATION: http://[2001:db8::9]:49152/\r\n", "accept"},
		{"IPv4 in brackets", "LOCATION: http://[198.51.100.9]:49152/\r\n", "accept"},
		{"another host", "LOCATION: http://198.51.100.8:49152/\r\n", "accept"},
		{"number above 255", "LOCATION: http://198.51.100.265:49152/\r\n", "accept"},
		{"three numbers", "LOCATION: http://198.51.100:49152/\r\n", "accept"},
		{"no host", "LOCATION: http://:49152/\r\n", "accept"},
		{"no URL", "LOCATION: \r\n", "accept"},
		{"open bracket", "LOCATION: http://[\r\n", "accept"},
		{"no CR", "LOCATION: http://198.51.100.9:49152/\n", "accept"},
		{"lines end with LF", "HTTP/1.1 200 OK\nLOCATION: http://198.51.100.9:49152/\r\n", "accept"},
		{"within a line", "X LOCATION: http://198.51.100.9:49152/\r\n", "accept"},
		{"behind the header", "HTTP/1.1 200 OK\r\n\r\nLOCATION: http://198.51.100.9:49152/\r\n", "accept"},
		{"nothing", "", "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, info := range []helper.Info{helper.Related, helper.Established} {
				f := helpertest.New(t, Helper, unix.IPPROTO_UDP, device, client)
				if got := f.SendAs(info, c.payload); got != c.want {
					t.Errorf("state %d: %s, want %s", info, got, c.want)
				}
			}
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, client, device) // a question by unicast
			if got := f.Send(helper.Reply, c.payload); got != c.want {
				t.Errorf("in the other direction: %s, want %s", got, c.want)
			}
		})
	}
}

func TestLocationIPv6(t *testing.T) {
	const expected = "accept; tcp *:* -> [2001:db8:1::9]:49152 permanent helper=ssdp"
	for _, c := range []struct{ name, url, want string }{
		{"with a port", "http://[2001:db8:1::9]:49152/", expected},
		{"written differently", "http://[2001:DB8:1:0::0009]:49152/", expected},
		{"no port", "http://[2001:db8:1::9]/", strings.Replace(expected, "49152", "80", 1)},
		{"no path", "http://[2001:db8:1::9]", strings.Replace(expected, "49152", "80", 1)},
		{"port 0", "http://[2001:db8:1::9]:0/", "accept"},
		{"port 65536", "http://[2001:db8:1::9]:65536/", "accept"},
		{"no colon", "http://[2001:db8:1::9]49152/", "accept"},
		{"no bracket", "http://2001:db8:1::9/", "accept"},
		{"no closing bracket", "http://[2001:db8:1::9/", "accept"},
		{"zone", "http://[2001:db8:1::9%25eth0]:49152/", "accept"},
		{"another host", "http://[2001:db8:1::8]:49152/", "accept"},
		{"IPv4", "http://198.51.100.9:49152/", "accept"},
		{"nothing in brackets", "http://[]:49152/", "accept"},
		{"200 digits", "http://[" + strings.Repeat("1", 200) + "]/", "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_UDP, "[2001:db8:1::9]:1900", "[2001:db8::2]:41000")
			if got := f.SendAs(helper.Related, "HTTP/1.1 200 OK\r\nLOCATION: "+c.url+"\r\n\r\n"); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestHTTP(t *testing.T) {
	const expected = "accept; tcp 198.51.100.9:* -> 192.0.2.2:5000 helper=ssdp"
	for _, c := range []struct{ name, payload, want string }{
		{"subscription", order, expected},
		{"name in lower case", strings.Replace(order, "CALLBACK", "callback", 1), expected},
		{"no port", strings.Replace(order, ":5000", "", 1), strings.Replace(expected, "5000", "80", 1)},
		{"no path", strings.Replace(order, "/cb", "", 1), expected},
		{"two URLs", strings.Replace(order, "/cb>", "/cb><http://203.0.113.7/>", 1), expected},

		{"another host", strings.Replace(order, "<http://192.0.2.2", "<http://192.0.2.3", 1), "accept"},
		{"the device", strings.Replace(order, "<http://192.0.2.2", "<http://198.51.100.9", 1), "accept"},
		{"port 0", strings.Replace(order, "5000", "0", 1), "accept"},
		{"port 70000", strings.Replace(order, "5000", "70000", 1), "accept"},
		{"no blank", strings.Replace(order, "CALLBACK: <", "CALLBACK:<", 1), "accept"},
		{"IPv4 as if it were IPv6", strings.Replace(order, "192.0.2.2", "[192.0.2.2]", 1), "accept"},
		{"no bracket", strings.Replace(order, "CALLBACK: <", "CALLBACK: ", 1), "accept"},
		{"open bracket", strings.Replace(order, "/cb>", "/cb", 1), "accept"},
		{"renewal without a callback", strings.Replace(order, "CALLBACK: <http://192.0.2.2:5000/cb>", "SID: uuid:1", 1), "accept"},
		{"method in lower case", strings.Replace(order, "SUBSCRIBE", "subscribe", 1), "accept"},
		{"end of a subscription", "UN" + order, "accept"},
		{"fetch", "GET /d.xml HTTP/1.1\r\nCALLBACK: <http://192.0.2.2:5000/cb>\r\n\r\n", "accept"},
		{"no more than the method", "SUBSCRIBE ", "accept"},
		{"nothing", "", "accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, web)
			if got := f.Send(helper.Original, c.payload); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			for _, info := range []helper.Info{helper.New, helper.Related, helper.EstablishedReply, helper.RelatedReply} {
				if got := f.SendAs(info, c.payload); got != "accept" {
					t.Errorf("state %d: %s", info, got)
				}
			}
		})
	}
	f := helpertest.New(t, Helper, unix.IPPROTO_TCP, "198.51.100.9:33333", "192.0.2.2:5000")
	if got := f.Send(helper.Original, event); got != expected {
		t.Errorf("event: %s, want %s", got, expected)
	}
	f = helpertest.New(t, Helper, unix.IPPROTO_TCP, "[2001:db8::2]:41000", "[2001:db8:1::9]:49152")
	const expected6 = "accept; tcp [2001:db8:1::9]:* -> [2001:db8::2]:5000 helper=ssdp"
	if got := f.Send(helper.Original, strings.Replace(order, "192.0.2.2:", "[2001:db8::2]:", 1)); got != expected6 {
		t.Errorf("IPv6: %s, want %s", got, expected6)
	}
}

func TestNAT(t *testing.T) {
	const callback = `"SUBSCRIBE /evt HTTP/1.1\r\nHOST: 198.51.100.9:49152\r\n` +
		`CALLBACK: <http://198.51.100.1:5000/cb>\r\nNT: upnp:event\r\n\r\n"`
	const expected = "accept; tcp 198.51.100.9:* -> 198.51.100.1:5000 helper=ssdp nat=reply:5000 or drop; "
	for _, c := range []struct {
		name                         string
		proto                        uint8
		src, dst, replySrc, replyDst string
		info                         helper.Info
		payload                      string
		want                         string
	}{
		{"search", unix.IPPROTO_UDP, client, groupV4, groupV4, "198.51.100.1:1024", helper.New, question,
			"accept; udp *:* -> 198.51.100.1:1024 permanent helper=ssdp nat=reply:192.0.2.2:41000 by sip"},
		{"search over IPv6", unix.IPPROTO_UDP, "[2001:db8::2]:41000", "[ff05::c]:1900", "[ff05::c]:1900", "[2001:db8:1::1]:5", helper.New, question,
			"accept; udp *:* -> [2001:db8:1::1]:5 permanent helper=ssdp nat=reply:[2001:db8::2]:41000 by sip"},

		{"answer to a host behind NAT", unix.IPPROTO_UDP, device, outside, client, device, helper.Related, found,
			"accept; tcp *:* -> 198.51.100.9:49152 permanent helper=ssdp nat=reply:49152"},
		{"answer in the other direction", unix.IPPROTO_UDP, client, device, device, outside, helper.EstablishedReply, found,
			"accept; tcp *:* -> 198.51.100.9:49152 permanent helper=ssdp nat=original:49152"},
		{"device behind NAT", unix.IPPROTO_UDP, client, "203.0.113.1:1900", device, client, helper.EstablishedReply, found,
			"accept; tcp *:* -> 203.0.113.1:49152 permanent helper=ssdp nat=original:49152; " +
				`"HTTP/1.1 200 OK\r\nLOCATION: http://203.0.113.1:49152/d.xml\r\n\r\n"`},
		{"device behind NAT, without a port", unix.IPPROTO_UDP, client, "203.0.113.1:1900", device, client, helper.EstablishedReply,
			strings.Replace(found, ":49152", "", 1),
			"accept; tcp *:* -> 203.0.113.1:80 permanent helper=ssdp nat=original:80; " +
				`"HTTP/1.1 200 OK\r\nLOCATION: http://203.0.113.1:80/d.xml\r\n\r\n"`},
		{"answer that comes from the group", unix.IPPROTO_UDP, "198.51.100.9:1901", outside, client, groupV4, helper.Related, found, "accept"},

		{"subscription", unix.IPPROTO_TCP, client, web, web, outside, helper.Established, order, expected + callback},
		{"subscription without a port", unix.IPPROTO_TCP, client, web, web, outside, helper.Established,
			strings.Replace(order, ":5000", "", 1), strings.ReplaceAll(expected+callback, "5000", "80")},
		{"subscription to a device behind NAT", unix.IPPROTO_TCP, client, "203.0.113.1:49152", web, client, helper.Established,
			strings.Replace(order, "HOST: 198.51.100.9", "HOST: 203.0.113.1", 1),
			"accept; tcp 198.51.100.9:* -> 192.0.2.2:5000 helper=ssdp nat=reply:5000 or drop; " +
				strings.Replace(strings.Replace(callback, "198.51.100.9", "203.0.113.1", 1), "198.51.100.1:", "192.0.2.2:", 1)},
		{"subscription over IPv6", unix.IPPROTO_TCP, "[2001:db8::2]:41000", "[2001:db8:1::9]:80", "[2001:db8:1::9]:80", "[2001:db8:1::1]:5",
			helper.Established, "SUBSCRIBE /\r\nCALLBACK: <http://[2001:db8::2]/cb>\r\n\r\n",
			"accept; tcp [2001:db8:1::9]:* -> [2001:db8:1::1]:80 helper=ssdp nat=reply:80 or drop; " +
				`"SUBSCRIBE /\r\nCALLBACK: <http://[2001:db8:1::1]:80/cb>\r\n\r\n"`},
		{"callback of another host", unix.IPPROTO_TCP, client, web, web, outside, helper.Established,
			strings.Replace(order, "<http://192.0.2.2", "<http://198.51.100.1", 1), "accept"},

		{"event", unix.IPPROTO_TCP, "198.51.100.9:33333", "198.51.100.1:5001", "192.0.2.2:5000", "198.51.100.9:33333", helper.Established, event,
			"accept; tcp 198.51.100.9:* -> 198.51.100.1:5001 helper=ssdp nat=original:5000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := helpertest.NATed(t, Helper, c.proto, c.src, c.dst, c.replySrc, c.replyDst)
			if got := f.SendAs(c.info, c.payload); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// A truncated message announces something only if it is complete up to the URL's line.
func TestPrefixes(t *testing.T) {
	for _, c := range []struct {
		proto    uint8
		src, dst string
		info     helper.Info
		payload  string
		needs    string // the text up to which it must be there
		want     string
	}{
		{unix.IPPROTO_UDP, client, groupV4, helper.New, question, "M-SEARCH", "accept; udp *:* -> 192.0.2.2:41000 permanent helper=ssdp"},
		{unix.IPPROTO_UDP, device, client, helper.Related, found, "d.xml\r", "accept; tcp *:* -> 198.51.100.9:49152 permanent helper=ssdp"},
		{unix.IPPROTO_TCP, client, web, helper.Established, order, "/cb>\r", "accept; tcp 198.51.100.9:* -> 192.0.2.2:5000 helper=ssdp"},
		{unix.IPPROTO_TCP, web, "192.0.2.2:5000", helper.Established, event, "NOTIFY ", "accept; tcp 198.51.100.9:* -> 192.0.2.2:5000 helper=ssdp"},
	} {
		least := strings.Index(c.payload, c.needs) + len(c.needs)
		for n := range len(c.payload) + 1 {
			want := "accept"
			if n >= least {
				want = c.want
			}
			f := helpertest.New(t, Helper, c.proto, c.src, c.dst)
			if got := f.SendAs(c.info, c.payload[:n]); got != want {
				t.Errorf("%q: %s, want %s", c.payload[:n], got, want)
			}
		}
	}
}

func TestAllocs(t *testing.T) {
	udp := helpertest.New(t, Helper, unix.IPPROTO_UDP, device, client)
	for _, payload := range []string{
		"", question, strings.Replace(found, "LOCATION", "X", 1), strings.Replace(found, "198.51.100.9", "device.example", 1),
		strings.Replace(found, ":49152", ":0", 1), strings.Repeat("a: b\r\n", 200),
	} {
		for _, info := range []helper.Info{helper.New, helper.Related} {
			if n := udp.Allocs(info, payload); n != 0 {
				t.Errorf("%q: %v allocations", payload, n)
			}
		}
	}
	tcp := helpertest.New(t, Helper, unix.IPPROTO_TCP, client, web)
	for _, payload := range []string{"", "GET /d.xml HTTP/1.1\r\n\r\n", strings.Replace(order, "CALLBACK", "X", 1), strings.Repeat("data ", 280)} {
		for _, info := range []helper.Info{helper.Established, helper.EstablishedReply} {
			if n := tcp.Allocs(info, payload); n != 0 {
				t.Errorf("%q: %v allocations", payload, n)
			}
		}
	}
}

func BenchmarkRead(b *testing.B) {
	b.Run("http", func(b *testing.B) {
		f := helpertest.New(b, Helper, unix.IPPROTO_TCP, client, web)
		f.Benchmark(b, helper.Established, "GET /d.xml HTTP/1.1\r\nHOST: 198.51.100.9:49152\r\n\r\n")
	})
	b.Run("answer", func(b *testing.B) {
		f := helpertest.New(b, Helper, unix.IPPROTO_UDP, device, client)
		f.Benchmark(b, helper.Related, found)
	})
}

func FuzzRead(f *testing.F) { helpertest.Fuzz(f, Helper, question, found, order, event) }

// FuzzURL checks that a URL which parseURL accepts can be rewritten in place and reads the same.
func FuzzURL(f *testing.F) {
	for _, text := range []string{"198.51.100.9:49152", "198.51.100.9", "[2001:db8::9]:1", "[2001:db8::9]", "[::]:0", "[", "x:1", ":"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		url := append([]byte("http://"), text...)
		u, ok := parseURL(url)
		if !ok {
			return
		}
		if u.port == 0 || u.addr.Zone() != "" {
			t.Fatalf("%q: %v port %d", url, u.addr, u.port)
		}
		// rewritten in place, it reads the same
		e := u.announced(0)
		again := append([]byte(nil), url[:e.At]...)
		again = e.Append(again, netip.AddrPortFrom(u.addr, u.port))
		again = append(again, url[e.At+e.Len:]...)
		v, ok := parseURL(again)
		if !ok || v.addr != u.addr || v.port != u.port {
			t.Fatalf("%q reads %v port %d, and %q %v port %d", url, u.addr, u.port, again, v.addr, v.port)
		}
	})
}
