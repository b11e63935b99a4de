//go:build !no_cluster

package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// sited is a Replicator that runs in a namespace.
type sited struct {
	*Replicator
	t    *testing.T
	name string
	mu   sync.Mutex
	log  bytes.Buffer
	end  func()
}

// Write collects the log, to which several goroutines write.
func (s *sited) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func runSited(t *testing.T, ns *netnstest.NS, config *conf.Sync) *sited {
	t.Helper()
	s := &sited{t: t, name: config.Cluster.NodeName}
	var loop *sched.Scheduler
	open := func() (err error) {
		loop = sched.New(func() { s.Transmit() }, func(string, error) {})
		s.Replicator = New(loop, daemonlog.Log{Logger: slog.New(slog.NewTextHandler(s, nil))}, Config{
			Sync: config, Internal: cache.NewSide(cache.Config{}), External: cache.NewSide(cache.Config{}), Takeover: nobody{},
		})
		ns.Do(func() { err = s.Open() })
		return err
	}
	netnstest.Eventually(t, 20*time.Second, s.name+" opens its links", func() bool {
		err := open()
		if err != nil {
			s.Close()
		}
		if err != nil && !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		// A child that another test is about to execute holds the sockets of the life before.
		return err == nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		ns.Do(func() { // the loop opens links again
			if err := loop.Run(ctx, func() { s.Begin(false) }, s.Close); err != nil {
				t.Errorf("%s ended: %v", s.name, err)
			}
		})
	})
	s.end = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(s.end)
	return s
}

func (s *sited) do(f func()) {
	s.t.Helper()
	if err := s.sched.Do(s.t.Context(), f); err != nil {
		s.t.Fatal(err)
	}
}

// awaits waits until the node has so many flows of its peer, and has proven since that they are equal.
func (s *sited) awaits(what string, flows int) {
	s.t.Helper()
	began := time.Now()
	defer func() {
		if s.t.Failed() {
			s.t.Log(s.log.String())
		}
	}()
	netnstest.Eventually(s.t, 20*time.Second, fmt.Sprintf("%s: %s has %d flows", what, s.name, flows), func() (has bool) {
		s.do(func() {
			for _, p := range s.Status().Peers {
				has = has || s.external.Flows.Len() == flows && p.Member != nil && p.Member.Equal && p.Member.LastEqual < time.Since(began)
			}
		})
		return has
	})
}

// Two nodes replicate over real links; one of them starts again, and a link that fails gives way
// to another one, over which the stream goes on.
func TestClusterOverUDP(t *testing.T) {
	for _, c := range []struct {
		family string
		sealed bool
	}{{"192.0.2.%d", false}, {"2001:db8::%d", true}} {
		t.Run(fmt.Sprintf(c.family+" sealed %v", 0, c.sealed), func(t *testing.T) {
			t.Parallel()
			var keys []string
			if c.sealed {
				keys = append(keys, keyFile(t, newKey(t, 'a'), 0o600))
			}
			spaces := [2]*netnstest.NS{netnstest.New(t, "fw1"), netnstest.New(t, "fw2")}
			var configs [2]*conf.Sync
			for i := range configs {
				configs[i] = clusterConfig(i, keys...)
				configs[i].Links, configs[i].Cluster.Peers[0].Addresses = nil, nil
			}
			for l := range 2 {
				dev := fmt.Sprintf("sync%d", l)
				addr := func(node int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(c.family, 16*(1+l)+node)) }
				bits := "/28"
				if addr(0).Is6() {
					bits = "/124"
				}
				var ends [2]netnstest.End
				for i, config := range configs {
					config.Links = append(config.Links, &conf.Link{Transport: conf.UDP, Interface: dev, Default: l == 0,
						Address: addr(1 + i), Port: 3780, Checksum: true})
					p := &config.Cluster.Peers[0]
					p.Addresses = append(p.Addresses, addr(2-i))
					ends[i] = netnstest.End{NS: spaces[i], Dev: dev, Addrs: []string{addr(1+i).String() + bits}}
				}
				netnstest.Link(t, ends[0], ends[1])
			}
			a, b := runSited(t, spaces[0], configs[0]), runSited(t, spaces[1], configs[1])
			all := flowtest.Flows(2000)
			store := func(s *sited, flows []ctnetlink.Flow) {
				s.do(func() {
					for i := range flows {
						s.store(&flows[i], true)
					}
				})
			}
			store(a, all[:1000])
			b.awaits("new flows", 1000)
			a.awaits("none", 0)
			a.do(func() {
				for i := range 300 {
					a.Replicator.end(&all[i])
				}
			})
			b.awaits("ends", 700)
			spaces[0].IP("link", "set", "sync0", "down")
			store(a, all[1000:1500])
			b.awaits("over the other link", 1200)
			a.do(func() {
				for _, s := range a.Status().Links {
					if s.Active != (s.Interface == "sync1") {
						t.Errorf("%+v", s)
					}
				}
			})
			b.end()
			b = runSited(t, spaces[1], configs[1])
			b.awaits("started again", 1200)
			store(b, all[1500:])
			a.awaits("the other way", 500)
		})
	}
}
