package helpers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/helpers/builtin"
	"ctbox/helpers/helper"
	"ctbox/internal/loglimit"
	"ctbox/nl"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/nfqueue"
)

// LevelNotice is the log level of normal, noteworthy events.
const LevelNotice = slog.LevelInfo + 2

// Host runs the helpers of a configuration.
type Host struct {
	// Stats counts; any goroutine may read it.
	Stats Stats

	log     *slog.Logger
	conn    *nl.Conn // for expectations while running
	objects *nl.Conn // for the helper objects
	queues  queues
	enabled []*cthelper.Helper // the requests that disable what Open has enabled

	byName  map[object]*helper.Helper // the configured ones
	byQueue map[uint16]*helper.Helper
	quiet   *loglimit.Limit[string, string]

	ctx         context.Context       // of Run, for requests to the kernel
	readPacket  func(*nfqueue.Packet) // receive and refusal, made once
	readRefusal func(error)

	packet  packet
	expect  expecter
	private private
}

// queues is implemented by *nfqueue.Queues, and by the tests.
type queues interface {
	Bind(ctx context.Context, queue uint16, maxLen uint32) error
	Read(each func(*nfqueue.Packet), refused func(error)) (short bool, err error)
	Answer(*nfqueue.Verdict)
	Full() bool
	Flush() error
	Stop() error
	Close() error
}

// object identifies a helper object of the kernel, without its family.
type object struct {
	name  ctnetlink.Name
	proto uint8
}

// Open registers the configuration's helper objects with the kernel and binds their queues,
// in the calling thread's network namespace. Like conntrack-tools it goes from the last Type
// to the first and logs the same notices. An error names the helper; no helper stays enabled
// then. The caller must call Run or Close.
func Open(ctx context.Context, cfg *conf.Helper, log *slog.Logger) (_ *Host, err error) {
	h := newHost(log)
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if h.objects, err = nl.Dial(nl.Config{}); err != nil {
		return nil, err
	}
	if h.conn, err = nl.Dial(nl.Config{}); err != nil {
		return nil, err
	}
	h.expect.conn = h.conn
	queues, err := nfqueue.Open(0, receiveBuffer(cfg.Types))
	if err != nil {
		return nil, err
	}
	h.queues = queues
	for _, t := range slices.Backward(cfg.Types) {
		if err := h.setUp(ctx, cfg.Setup, t); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func newHost(log *slog.Logger) *Host {
	h := &Host{
		log:     log,
		byName:  make(map[object]*helper.Helper),
		byQueue: make(map[uint16]*helper.Helper),
	}
	h.quiet = loglimit.New[string](1, quietPeriod, h.warnHeld)
	h.readPacket, h.readRefusal = h.receive, h.refusal
	return h
}

// receiveBuffer returns the size of a receive buffer for as many packets as the queues
// may hold, each of 1500 bytes and the kernel's overhead.
func receiveBuffer(types []*conf.HelperType) int {
	const each, standard, least, most = 4096, 1024, 4 << 20, 64 << 20
	size := 0
	for _, t := range types {
		n := int(t.QueueLen)
		if n == 0 {
			n = standard
		}
		size += min(n, most/each) * each
	}
	return min(max(size, least), most)
}

func (h *Host) setUp(ctx context.Context, create bool, t *conf.HelperType) error {
	built := builtin.Find(t.Name, t.Protocol)
	if built == nil {
		return fmt.Errorf("there is no helper `%s'", t.Name)
	}
	h.notice(ctx, fmt.Sprintf("configuring helper `%s' with queuenum=%d and queuelen=%d", t.Name, t.QueueNum, t.QueueLen))
	o := &cthelper.Helper{Name: t.Name, Family: nl.FamilyIPv4, Proto: t.Protocol, Queue: uint32(t.QueueNum), Status: cthelper.Enabled,
		Has: cthelper.HasName | cthelper.HasTuple | cthelper.HasQueue | cthelper.HasPolicies | cthelper.HasStatus}
	if t.IPv6 {
		o.Family = nl.FamilyIPv6
	}
	if create {
		o.PrivDataLen = uint32(built.PrivateLen)
		o.Has |= cthelper.HasPrivDataLen
	}
	for _, p := range t.Policies {
		timeout := uint32(p.ExpectTimeout / time.Second)
		h.notice(ctx, fmt.Sprintf("policy name=%s expect_timeout=%d expect_max=%d", p.Name, timeout, p.ExpectMax))
		o.Policies = append(o.Policies, cthelper.Policy{Name: p.Name, ExpectMax: p.ExpectMax, ExpectTimeout: timeout})
	}
	// Bind the queue first: packets of an enabled helper pass unread until its queue is bound.
	if h.byQueue[t.QueueNum] == nil {
		if err := h.queues.Bind(ctx, t.QueueNum, t.QueueLen); err != nil {
			return bindError(t, err)
		}
		h.byQueue[t.QueueNum] = built
	}
	if err := cthelper.Set(ctx, h.objects, o); err != nil {
		return setError(t, create, err)
	}
	h.enabled = append(h.enabled, &cthelper.Helper{Name: o.Name, Family: o.Family, Proto: o.Proto, Status: cthelper.Disabled,
		Has: cthelper.HasName | cthelper.HasTuple | cthelper.HasStatus})
	var name ctnetlink.Name
	name.Set(t.Name)
	h.byName[object{name, t.Protocol}] = built
	h.notice(ctx, fmt.Sprintf("helper `%s' configured successfully", t.Name))
	return nil
}

func (h *Host) notice(ctx context.Context, text string) { h.log.Log(ctx, LevelNotice, text) }

// bindError adds a likely cause to the error of a queue that cannot be bound.
func bindError(t *conf.HelperType, err error) error {
	var why string
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EPERM):
		why = "; another program has it, or this one lacks CAP_NET_ADMIN"
	case errors.Is(err, unix.EOPNOTSUPP):
		why = "; the kernel needs CONFIG_NETFILTER_NETLINK_GLUE_CT"
	case errors.Is(err, unix.EINVAL):
		why = "; is the module nfnetlink_queue loaded?"
	}
	return fmt.Errorf("trying to bind queue %d of cthelper `%s': %w%s", t.QueueNum, t.Name, worded(err), why)
}

// setError adds a likely cause to the error of a helper object that the kernel refuses.
func setError(t *conf.HelperType, create bool, err error) error {
	var why string
	switch {
	case errors.Is(err, unix.EINVAL) && create:
		why = "; is the module nfnetlink_cthelper loaded?"
	case errors.Is(err, unix.EINVAL):
		why = "; it does not exist and Setup is off: `nfct helper add` creates it (module nfnetlink_cthelper)"
	case errors.Is(err, unix.EBUSY):
		why = "; the kernel has another one of this name: its own module (nf_conntrack_" + t.Name +
			"), or an object with another policy or private data length (`nfct helper delete` removes it)"
	}
	return fmt.Errorf("trying to configure cthelper `%s': %w%s", t.Name, worded(err), why)
}

// refusal is an error of the kernel with strerror(3)'s text, which conntrack-tools logs
// and people search for.
type refusal struct{ reason *nl.Error }

func (r refusal) Error() string { return r.reason.Strerror() }

func (r refusal) Unwrap() error { return r.reason }

// worded returns err, as a refusal if it comes from the kernel.
func worded(err error) error {
	if reason, ok := err.(*nl.Error); ok {
		return refusal{reason}
	}
	return err
}

// Run reads and answers packets until ctx ends. Then it disables the helper objects, so
// that new flows pass, answers the packets still in the queues, and closes h. An error
// means that packets can no longer be read; h is closed then, too.
func (h *Host) Run(ctx context.Context) error {
	defer h.Close()
	running, stop := context.WithCancel(context.Background())
	defer stop()
	h.ctx = running // not ctx: packets are still answered after ctx has ended
	var disabled atomic.Bool
	var waiting sync.WaitGroup
	defer waiting.Wait()
	waiting.Go(func() {
		select {
		case <-ctx.Done():
			h.disable()
			disabled.Store(true)
			_ = h.queues.Stop() // an error here is one of the next Read, too
		case <-running.Done():
		}
	})
	defer stop()
	for {
		short, err := h.batch()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			h.Stats.Overruns.Add(1)
			h.warn("packets passed unread: the queue's receive buffer was full")
		case err != nil:
			return fmt.Errorf("user-space helpers: %w", err)
		}
		if disabled.Load() {
			if short {
				return nil // the queues are empty, and the kernel queues nothing more
			}
			_ = h.queues.Stop() // again, since the first one may have ended this batch
		}
	}
}

// disable makes the kernel accept packets that it would have queued. The objects stay,
// because rules refer to them, and so do the expectations.
func (h *Host) disable() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, o := range h.enabled {
		if err := cthelper.Set(ctx, h.objects, o); err != nil && !errors.Is(err, unix.EINVAL) {
			h.log.Warn(fmt.Sprintf("disabling cthelper `%s': %v", o.Name, err))
		}
	}
	h.enabled = nil
}

// Close releases everything that Open has opened. Further calls do nothing.
func (h *Host) Close() {
	if h.objects != nil {
		h.disable()
		h.objects.Close()
	}
	if h.queues != nil {
		h.queues.Close()
	}
	if h.conn != nil {
		h.conn.Close()
	}
	h.quiet.Close()
	h.objects, h.queues, h.conn = nil, nil, nil
}

// quietPeriod is the shortest time between two identical log lines: packets from outside
// must not fill the log.
const quietPeriod = time.Second

// warn logs text, or counts it if it was logged within quietPeriod.
func (h *Host) warn(text string) {
	if h.quiet.Admit(text, text) {
		h.log.Warn(text)
	}
}

// warnHeld logs how many lines of a text were suppressed.
func (h *Host) warnHeld(text string, n uint64) {
	h.log.Warn(fmt.Sprintf("%s (and %d times more)", text, n))
}
