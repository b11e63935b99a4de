package listen

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTCP(t *testing.T) {
	for network, at := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		prepared := 0
		l, err := TCP(network, netip.MustParseAddrPort(at), func(int) error { prepared++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if prepared != 1 {
			t.Errorf("%s: prepared %d times", network, prepared)
		}
		client, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		client.Close()
		if got, err := io.ReadAll(server); string(got) != "hello" || err != nil {
			t.Errorf("%s: received %q, %v", network, got, err)
		}
		server.Close()
		// The port is taken, and the error says by what it was asked for.
		if _, err := TCP(network, l.Addr().(*net.TCPAddr).AddrPort(), nil); err == nil || !strings.HasSuffix(err.Error(), "bind: address already in use") ||
			!strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%s: listening twice: %v", network, err)
		}
		closed := make(chan error)
		go func() {
			_, err := l.AcceptTCP()
			closed <- err
		}()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-closed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Accept after Close: %v", network, err)
		}
	}
}

// A socket that could not be prepared or bound leaves no descriptor behind.
func TestFailuresCloseTheSocket(t *testing.T) {
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	broken := errors.New("broken")
	at := netip.MustParseAddrPort("127.0.0.1:0")
	if _, err := TCP("tcp4", at, func(int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a failed preparation: %v", err)
	}
	before := open()
	for range 10 {
		_, _ = TCP("tcp4", at, func(int) error { return broken })
		_, _ = TCP("tcp4", netip.MustParseAddrPort("192.0.2.1:0"), nil)
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
}

func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	ours, err := New(file, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ours.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := server.SyscallConn(); err != nil {
		t.Error(err)
	}
}
