package accept

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// result is what a call of Accept returns.
type result struct {
	conn net.Conn
	err  error
}

// start runs a loop whose Accept returns what the channel delivers. Handle sends clients to
// handled.
func start(ctx context.Context) (accepts chan<- result, handled <-chan net.Conn, end <-chan error) {
	results, conns, done := make(chan result), make(chan net.Conn, 1), make(chan error, 1)
	closed := make(chan struct{})
	l := Loop[net.Conn]{
		Name: "test", Log: slog.New(slog.DiscardHandler),
		Accept: func() (net.Conn, error) {
			select {
			case r := <-results:
				return r.conn, r.err
			case <-closed:
				return nil, net.ErrClosed
			}
		},
		Close:  func() error { close(closed); return nil },
		Handle: func(c net.Conn) { conns <- c },
	}
	go func() { done <- l.Run(ctx) }()
	return results, conns, done
}

// A temporary error costs a second, and further clients are accepted.
func TestLoopGoesOnAfterError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		accepts, handled, end := start(ctx)
		began := time.Now()
		accepts <- result{err: unix.EMFILE}
		conn, _ := net.Pipe()
		accepts <- result{conn: conn}
		if got := <-handled; got != conn {
			t.Errorf("handled %v", got)
		}
		if waited := time.Since(began); waited != retryAfter {
			t.Errorf("waited %v after the error", waited)
		}
		cancel()
		if err := <-end; err != nil {
			t.Errorf("after the end of its context: %v", err)
		}
	})
}

func TestLoopReportsClosedSocket(t *testing.T) {
	accepts, _, end := start(t.Context())
	accepts <- result{err: net.ErrClosed}
	if err := <-end; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestPoolLimit(t *testing.T) {
	p := NewPool(2)
	release := make(chan struct{})
	wait := func() { <-release }
	for range 2 {
		if !p.Try(wait) {
			t.Fatal("no place in an empty pool")
		}
	}
	if p.Try(wait) {
		t.Error("a third function runs in a pool for two")
	}
	close(release)
	p.Wait()
	if !p.Try(func() {}) {
		t.Error("no place after all have returned")
	}
	p.Wait()
}
