package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Monitor tells when any interface of this network namespace may have changed:
// came, went, up, down, carrier, MTU. It sends on Changed, without ever blocking;
// several changes may become one.
type Monitor struct {
	Changed <-chan struct{}
	conn    *netlink.Conn
	done    chan struct{}
}

// NewMonitor listens to rtnetlink's link events (rtnetlink(7), RTMGRP_LINK).
func NewMonitor(ctx context.Context) (*Monitor, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return nil, fmt.Errorf("listen to interface changes: %w", err)
	}
	changed := make(chan struct{}, 1)
	m := &Monitor{Changed: changed, conn: conn, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for {
			_, err := conn.Receive()
			if ctx.Err() != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
			// An overrun is a change, too; anything else means it was closed.
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
		}
	}()
	return m, nil
}

// Close ends the listening.
func (m *Monitor) Close() {
	m.conn.Close()
	<-m.done
}
