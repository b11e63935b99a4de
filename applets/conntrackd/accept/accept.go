// Package accept has what the daemon's servers share: the loop that accepts clients, and a
// bound on the clients that are served at the same time.
package accept

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Loop accepts the clients of a listening socket.
type Loop[C net.Conn] struct {
	Name   string // of the socket, in log lines
	Log    *slog.Logger
	Accept func() (C, error)
	Close  func() error // closes the socket, so that Accept returns net.ErrClosed

	// Handle takes over a client and closes it. The next client waits until it returns.
	Handle func(C)
}

// retryAfter is how long Run waits after an error of Accept.
const retryAfter = time.Second

// Run accepts clients until ctx ends. Then it closes the socket and returns nil. An error
// means that the socket was closed by someone else. Run does not wait for clients that
// Handle passed on to other goroutines.
func (l *Loop[C]) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// The process or the system is short of descriptors or memory.
			l.Log.Warn(l.Name + ": " + err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		default:
			l.Handle(conn)
		}
	}
}

// Pool runs a limited number of functions at the same time.
type Pool struct {
	places  chan struct{}
	running sync.WaitGroup
}

// NewPool returns a pool for limit functions at a time.
func NewPool(limit int) *Pool { return &Pool{places: make(chan struct{}, limit)} }

// Try runs f in a goroutine, or returns false if the pool is full.
func (p *Pool) Try(f func()) bool {
	select {
	case p.places <- struct{}{}:
	default:
		return false
	}
	p.running.Go(func() {
		defer func() { <-p.places }()
		f()
	})
	return true
}

// Wait waits until no function runs.
func (p *Pool) Wait() { p.running.Wait() }
