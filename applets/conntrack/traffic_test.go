package conntrack

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// traffic is connections inside a namespace, over its loopback interface, that
// stay open until close.
type traffic struct {
	t      testing.TB
	opened []io.Closer
}

// close ends all connections. Those of TCP are reset: that is one packet, which
// makes no flow if it comes late, where the goodbyes of an orderly end go on
// behind our back.
func (tr *traffic) close() {
	for _, c := range tr.opened {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
	}
	tr.opened = nil
}

// open is the set-up of a script that sends packets in both namespaces:
//
//	tcp FROM TO    a connection that has carried a line each way
//	nat FROM TO AT the same, where a rule translates TO to AT
//	udp FROM TO    a question and its answer
//	lost FROM TO   a UDP packet without an answer
//	icmp FROM TO   an echo and its reply; the port of FROM is the id
//	ftp FROM TO PORT   a control connection over which the client offers PORT
//
// FROM and TO are addresses with ports.
func (s *script) open(where string, args []string, _ string) {
	kind := strings.Fields(strings.SplitN(where, "+ ", 2)[1])[0]
	for _, ns := range s.each() {
		var err error
		ns.Do(func() { err = s.traffic.open(kind, args) })
		if err != nil {
			s.t.Fatalf("%s: in %s: %v", where, ns.Name, err)
		}
	}
}

// open opens a connection in the namespace of the calling thread.
func (tr *traffic) open(kind string, args []string) error {
	switch kind {
	case "tcp":
		return tr.stream(args[0], args[1], args[1], "hello\n")
	case "nat":
		return tr.stream(args[0], args[1], args[2], "hello\n")
	case "ftp":
		host, _, err := net.SplitHostPort(args[0])
		if err != nil {
			return err
		}
		port, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		// The helper looks only at lines that follow one that it has seen.
		return tr.stream(args[0], args[1], args[1], "USER anonymous\r\n", fmt.Sprintf("PORT %s,%d,%d\r\n", strings.ReplaceAll(host, ".", ","), port>>8, port&0xff))
	case "udp", "lost":
		return tr.datagram(args[0], args[1], kind == "udp")
	case "icmp":
		return tr.echo(args[0], args[1])
	}
	return fmt.Errorf("no traffic of kind %s", kind)
}

const patience = 10 * time.Second

// stream connects, to a listener at the address at, and sends each line both ways.
func (tr *traffic) stream(from, to, at string, lines ...string) error {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	defer listener.Close()
	local, err := net.ResolveTCPAddr("tcp", from)
	if err != nil {
		return err
	}
	client, err := (&net.Dialer{LocalAddr: local, Timeout: patience}).Dial("tcp", to)
	if err != nil {
		return err
	}
	tr.opened = append(tr.opened, client)
	server, err := listener.Accept()
	if err != nil {
		return err
	}
	tr.opened = append(tr.opened, server)
	for _, line := range lines {
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			if err := say(way[0], way[1], line); err != nil {
				return err
			}
		}
	}
	return nil
}

// say writes a line at one end of a connection and reads it at the other.
func say(from io.Writer, to net.Conn, line string) error {
	if _, err := io.WriteString(from, line); err != nil {
		return err
	}
	to.SetReadDeadline(time.Now().Add(patience))
	_, err := io.ReadFull(to, make([]byte, len(line)))
	return err
}

func (tr *traffic) datagram(from, to string, answered bool) error {
	client, err := net.ListenPacket("udp", from)
	if err != nil {
		return err
	}
	tr.opened = append(tr.opened, client)
	server, err := net.ListenPacket("udp", to)
	if err != nil {
		return err
	}
	tr.opened = append(tr.opened, server)
	if _, err := client.WriteTo([]byte("question"), server.LocalAddr()); err != nil {
		return err
	}
	buf := make([]byte, 64)
	server.SetReadDeadline(time.Now().Add(patience))
	_, asker, err := server.ReadFrom(buf)
	if err != nil || !answered {
		return err
	}
	if _, err := server.WriteTo([]byte("answer"), asker); err != nil {
		return err
	}
	client.SetReadDeadline(time.Now().Add(patience))
	_, _, err = client.ReadFrom(buf)
	return err
}

// echo sends an ICMP echo, whose id is from's port, and waits for the reply.
func (tr *traffic) echo(from, to string) error {
	local, err := net.ResolveUDPAddr("udp", from)
	if err != nil {
		return err
	}
	remote, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if local.IP.To4() == nil {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := net.DialIP(network, &net.IPAddr{IP: local.IP}, &net.IPAddr{IP: remote.IP})
	if err != nil {
		return err
	}
	defer conn.Close()
	packet := []byte{request, 0, 0, 0, byte(local.Port >> 8), byte(local.Port), 0, 1}
	if request == 8 { // the kernel fills in the one of ICMPv6
		sum := ^(uint16(request)<<8 + uint16(local.Port) + 1)
		packet[2], packet[3] = byte(sum>>8), byte(sum)
	}
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	for buf := make([]byte, 128); ; {
		n, _, err := conn.ReadFrom(buf) // which leaves out the header of IPv4
		if err != nil {
			return err
		}
		if n > 0 && buf[0] == reply {
			return nil
		}
	}
}
