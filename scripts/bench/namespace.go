package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace of the benchmark's own.
type namespace struct{ name string }

func newNamespace(label string) (*namespace, error) {
	n := &namespace{name: fmt.Sprintf("ctbench-%d-%s", os.Getpid(), label)}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ip netns add %s: %w: %s", n.name, err, out)
	}
	return n, nil
}

func (n *namespace) Close() { _ = exec.Command("ip", "netns", "del", n.name).Run() }

// do runs f with the goroutine's thread in the namespace.
func (n *namespace) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine.
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func (n *namespace) dial() (c *nl.Conn, err error) {
	err = n.do(func() (err error) { c, err = nl.Dial(nl.Config{}); return err })
	return c, err
}

// command returns a command that runs the program in the namespace. nsenter executes it in its
// own process, so the pid, times and memory are the program's.
func (n *namespace) command(program string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + n.name, program}, args...)...)
}

// flow returns flow number i of a table: established TCP with both directions, like most flows
// of a busy firewall.
func flow(i int, f *ctnetlink.Flow) {
	f.Reset()
	f.Has = ctnetlink.HasTimeout | ctnetlink.HasStatus | ctnetlink.HasTCPState
	f.Timeout, f.TCPState = 3600, ctnetlink.TCPStateEstablished
	f.Status = ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured
	f.Orig = ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP,
		Src: ctnetlink.Addr{10, 0, byte(i >> 16), byte(i >> 8)}, Dst: ctnetlink.Addr{198, 51, 100, byte(i)},
		SrcPort: uint16(1024 + i%60000), DstPort: 443}
	f.Reply = f.Orig.Inverted()
}

// fill creates the missing ones of the first n flows; it is also the kernel's own cost of a load.
func fill(c *nl.Conn, n int) error { return create(c, n, flow) }

// create creates n flows, which describe fills in.
func create(c *nl.Conn, n int, describe func(i int, f *ctnetlink.Flow)) error {
	p := c.NewPipeline(context.Background(), func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			if !errors.Is(f.Err, unix.EEXIST) {
				return f.Err
			}
		}
		return nil
	})
	err := createPipelined(p, n, describe)
	if cerr := p.Close(); err == nil {
		err = cerr
	}
	return err
}

func createPipelined(p *nl.Pipeline, n int, describe func(i int, f *ctnetlink.Flow)) error {
	b, err := p.Batch()
	if err != nil {
		return err
	}
	var f ctnetlink.Flow
	for i := range n {
		describe(i, &f)
		b.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: nl.FamilyIPv4, Attrs: f.Append})
		if b.Full() {
			if err := p.Submit(b); err != nil {
				return err
			}
			if b, err = p.Batch(); err != nil {
				return err
			}
		}
	}
	return p.Submit(b)
}

func flush(c *nl.Conn) error {
	return c.Do(context.Background(), nl.Request{Type: ctnetlink.TypeFlowDelete}, nil)
}

// refill makes the table hold exactly the first n flows.
func refill(c *nl.Conn, n int) error {
	if err := flush(c); err != nil {
		return err
	}
	return fill(c, n)
}

const limitFile = "/proc/sys/net/netfilter/nf_conntrack_max"

// raiseTableLimit makes room for n flows in each namespace. The limit applies to the whole
// machine.
func raiseTableLimit(n int) (restore func(), err error) {
	old, err := os.ReadFile(limitFile)
	if err != nil {
		return nil, err
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(old)))
	if err != nil || now >= n {
		return func() {}, err
	}
	fmt.Printf("nf_conntrack_max is %d for this run, %d before and after.\n", n, now)
	return func() { _ = os.WriteFile(limitFile, old, 0) }, os.WriteFile(limitFile, []byte(strconv.Itoa(n)), 0)
}

func debianVersion(program string) string {
	out, _ := exec.Command(program, "-V").Output()
	return strings.TrimSpace(string(out))
}
