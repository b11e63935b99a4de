// Command ctbox is conntrack, conntrackd and nfct in one static binary; which
// of them it is depends on the name it was started under.
package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"ctbox/applets"
)

func main() {
	raiseNetAdmin()
	table := applets.All()
	if a, _ := applets.Pick(table, os.Args); a != nil && a.Run != nil {
		setName(a.Name)
	}
	os.Exit(run(table))
}

// grace is the time that an applet has to end after SIGINT or SIGTERM. If it cannot, for
// example because its output is a pipe that no process reads, the signal then kills it, as
// it would by default. A daemon has all the time it needs.
const grace = 3 * time.Second

// stopped is the cause of the end of an applet's context: the signal. It wraps
// context.Canceled.
type stopped syscall.Signal

func (s stopped) Error() string          { return s.Signal().String() }
func (s stopped) Unwrap() error          { return context.Canceled }
func (s stopped) Signal() syscall.Signal { return syscall.Signal(s) }

// interruptible is a context that ends with the first SIGINT or SIGTERM. It begins to
// catch them when it is first asked whether it has ended. Until then, and in a program
// that never asks, a signal does what it does by default. Catching costs threads, a
// tenth of the whole run of `conntrack -C`. It is used by its pointer: who keeps a
// context compares it with the next one, and a struct with a func cannot be compared.
type interruptible struct {
	context.Context
	catch func() // idempotent
}

func (c *interruptible) Done() <-chan struct{} { c.catch(); return c.Context.Done() }
func (c *interruptible) Err() error            { c.catch(); return c.Context.Err() }

// run gives the applet a context that ends with the first SIGINT or SIGTERM,
// so that an event stream can write its footer and its summary. A second
// signal kills at once.
//
// SIGPIPE stays as the Go runtime has it: a write to a closed pipe on standard
// output or standard error kills the process by SIGPIPE, quietly, as it does
// every C tool in a shell pipeline, and on any other descriptor the write
// returns EPIPE. Applets therefore write to the stdout they are given (it is
// the *os.File of descriptor 1) and never have to look for EPIPE there.
func run(table []applets.Applet) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	returned := make(chan struct{})
	defer close(returned)
	picked, _ := applets.Pick(table, os.Args)
	daemon := picked != nil && picked.Daemon
	catch := sync.OnceFunc(func() {
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			sig := <-caught
			signal.Reset(syscall.SIGINT, syscall.SIGTERM)
			cancel(stopped(sig.(syscall.Signal)))
			if daemon {
				return
			}
			select {
			case <-returned:
			case <-time.After(grace):
				_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal))
			}
		}()
	})
	if daemon {
		catch() // whose files must go with it, whenever it is stopped
	}
	return applets.Run(&interruptible{ctx, catch}, table, os.Args, os.Stdin, os.Stdout, os.Stderr)
}
