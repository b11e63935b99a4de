package link

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Monitor tells when any interface of this network namespace may have changed:
// came, went, up, down, carrier, MTU, addresses. It sends on Changed and never
// blocks; several changes may become one.
type Monitor struct {
	Changed <-chan struct{}
	conn    *netlink.Conn
	done    chan struct{}
}

// monitored are rtnetlink's events of links, and of addresses: an interface that
// comes back gets its addresses later, and before that nothing can be bound to them.
const monitored = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR

// NewMonitor listens to rtnetlink's events (rtnetlink(7)).
func NewMonitor() (*Monitor, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: monitored})
	if err != nil {
		return nil, fmt.Errorf("listen to interface changes: %w", err)
	}
	changed := make(chan struct{}, 1)
	m := &Monitor{Changed: changed, conn: conn, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for {
			_, err := conn.Receive()
			select {
			case changed <- struct{}{}:
			default:
			}
			// An overrun is a change, too; anything else means that it was closed.
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
