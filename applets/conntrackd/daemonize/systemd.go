package daemonize

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notify sends a state to the service manager, as sd_notify(3) does: a datagram
// to the socket in NOTIFY_SOCKET. Without that variable it does nothing.
func Notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return fmt.Errorf("NOTIFY_SOCKET %q is not a path", name)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// The states that the daemon reports.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	watchdog = "WATCHDOG=1"
)

// Reloading returns the state of a daemon that reads its configuration again; Ready ends
// it. Type=notify-reload requires the time (sd_notify(3)).
func Reloading() string {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // does not fail on Linux
	return "RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)
}

// MainPID returns the state that names another process as the service's main one.
func MainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// WatchdogPeriod returns the interval within which the service manager expects a
// notification (sd_watchdog_enabled(3)); 0 if it expects none. mainPID is the process that
// was started as the service: ours, or that of our Parent.
func WatchdogPeriod(mainPID int) (time.Duration, error) {
	usec := os.Getenv("WATCHDOG_USEC")
	if usec == "" {
		return 0, nil
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(mainPID) {
		return 0, nil
	}
	n, err := strconv.ParseUint(usec, 10, 63)
	if err != nil || n == 0 || n > uint64((1<<63-1)/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC %q is not a time", usec)
	}
	return time.Duration(n) * time.Microsecond, nil
}

// FeedWatchdog calls alive every half period and notifies the service manager if it returns
// nil, so that a daemon that hangs is restarted. The context of alive ends after half a
// period. FeedWatchdog returns when ctx ends.
func FeedWatchdog(ctx context.Context, period time.Duration, alive func(context.Context) error) {
	ticker := time.NewTicker(period / 2)
	defer ticker.Stop()
	for {
		check, cancel := context.WithTimeout(ctx, period/2)
		if alive(check) == nil {
			Notify(watchdog)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
