// Package listen accepts connections on sockets whose address is no name.
//
// Package net's listeners do the same, but net.TCPListener refers to net.ListenConfig and so to
// the name resolver. In a program with text/template, which looks methods up by their names,
// the linker keeps the exported methods of all types that it meets: 200 kB.
package listen

import (
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listener is a listening stream socket. Its methods may be called by any goroutine.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
	addr net.Addr

	closed atomic.Bool // Read's error after Close is none that package os exports
}

// New returns the Listener of a socket that listens on addr already, and takes over the file,
// whose descriptor must not block.
func New(file *os.File, addr net.Addr) (*Listener, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Listener{file: file, raw: raw, addr: addr}, nil
}

// TCP listens on an address of the network tcp4 or tcp6. IPv6 sockets take no IPv4
// connections. Port 0 is any free one. prepare, which may be nil, is called with the socket
// before it is bound.
func TCP(network string, at netip.AddrPort, prepare func(fd int) error) (*Listener, error) {
	l, err := listenTCP(network, at, prepare)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.TCPAddrFromAddrPort(at), Err: err}
	}
	return l, nil
}

func listenTCP(network string, at netip.AddrPort, prepare func(fd int) error) (_ *Listener, err error) {
	family := unix.AF_INET
	if network == "tcp6" {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), network+":"+at.String())
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if prepare != nil {
		if err := prepare(fd); err != nil {
			return nil, err
		}
	}
	if err := unix.Bind(fd, sockaddr(family, at)); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	// The kernel reduces this to net.core.somaxconn.
	if err := unix.Listen(fd, 1<<16-1); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	return New(file, net.TCPAddrFromAddrPort(addrPort(bound)))
}

func sockaddr(family int, at netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET {
		sa := &unix.SockaddrInet4{Port: int(at.Port())}
		if at.Addr().Is4() || at.Addr().Is4In6() {
			sa.Addr = at.Addr().Unmap().As4()
		}
		return sa
	}
	sa := &unix.SockaddrInet6{Port: int(at.Port())}
	if at.Addr().IsValid() {
		sa.Addr = at.Addr().As16()
	}
	if zone := at.Addr().Zone(); zone != "" {
		if nic, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(nic.Index)
		}
	}
	return sa
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Addr returns the address on which l listens.
func (l *Listener) Addr() net.Addr { return l.addr }

// AcceptTCP waits for a connection to a TCP socket. The error is net.ErrClosed once l is closed.
func (l *Listener) AcceptTCP() (*net.TCPConn, error) { return accept[*net.TCPConn](l) }

// AcceptUnix is AcceptTCP for a Unix socket.
func (l *Listener) AcceptUnix() (*net.UnixConn, error) { return accept[*net.UnixConn](l) }

func accept[C net.Conn](l *Listener) (conn C, err error) {
	accepted, err := l.accept()
	if err != nil {
		return conn, &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: err}
	}
	return accepted.(C), nil
}

func (l *Listener) accept() (net.Conn, error) {
	fd, failed := -1, error(nil)
	err := l.raw.Read(func(listening uintptr) bool {
		for {
			fd, _, failed = unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch failed {
			case unix.EINTR, unix.ECONNABORTED: // the client has gone again
				continue
			case unix.EAGAIN:
				return false
			}
			return true
		}
	})
	switch {
	case err != nil && l.closed.Load():
		return nil, net.ErrClosed
	case err != nil:
		return nil, err
	case failed != nil:
		return nil, os.NewSyscallError("accept4", failed)
	}
	file := os.NewFile(uintptr(fd), l.addr.Network())
	defer file.Close()
	return net.FileConn(file) // with a descriptor of its own
}

// Close ends Accept. A second call returns an error.
func (l *Listener) Close() error {
	l.closed.Store(true)
	return l.file.Close()
}
