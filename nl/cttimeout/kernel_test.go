package cttimeout

import (
	"context"
	"errors"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

func dialIn(t *testing.T, ns *netnstest.NS) *nl.Conn {
	t.Helper()
	var c *nl.Conn
	ns.Do(func() {
		var err error
		if c, err = nl.Dial(nl.Config{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func names(t *testing.T, c *nl.Conn) string {
	t.Helper()
	var list []string
	if err := List(context.Background(), c, func(p *Policy) error {
		list = append(list, p.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestKernelTable(t *testing.T) {
	ctx := context.Background()
	c := dialIn(t, netnstest.New(t, "cttimeout"))
	if ok, err := Available(ctx, c); !ok || err != nil {
		t.Fatalf("available: %v, %v", ok, err)
	}
	a := Policy{Has: HasName | HasFamily | HasProto, Name: "a", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP, Timeouts: timeouts(2, 77)}
	b := a
	b.Name = "b"
	for _, p := range []*Policy{&b, &a} {
		if err := Add(ctx, c, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := Add(ctx, c, &a); !errors.Is(err, unix.EBUSY) {
		t.Errorf("add again: %v, want EBUSY", err)
	}
	esp := a
	esp.Name, esp.Proto = "esp", 50
	if err := Add(ctx, c, &esp); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("add for esp: %v, want EOPNOTSUPP", err)
	}
	if got := names(t, c); got != "b a" {
		t.Errorf("table is %q, want the order of creation", got)
	}
	got, err := Get(ctx, c, "a")
	if err != nil {
		t.Fatal(err)
	}
	// The kernel gave the timeout that was not given.
	want := a
	want.Has |= HasUse
	want.Use = 1
	want.Timeouts.Set(1, 30)
	if *got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := Get(ctx, c, "c"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("get what is not there: %v", err)
	}
	if err := Delete(ctx, c, "b"); err != nil {
		t.Error(err)
	}
	if err := Delete(ctx, c, "b"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("delete again: %v", err)
	}
	if err := Flush(ctx, c); err != nil {
		t.Error(err)
	}
	if got := names(t, c); got != "" {
		t.Errorf("after flush: %q", got)
	}
}

func TestKernelDefaults(t *testing.T) {
	ctx := context.Background()
	ns := netnstest.New(t, "cttimeout")
	c := dialIn(t, ns)
	err := SetDefault(ctx, c, &Policy{Has: HasFamily | HasProto, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP, Timeouts: timeouts(1, 11)})
	if err != nil {
		t.Fatal(err)
	}
	if got := ns.ReadSysctl("net.netfilter.nf_conntrack_udp_timeout"); got != "11" {
		t.Errorf("the sysctl is %s, want 11", got)
	}
	got, err := Default(ctx, c, nl.FamilyIPv4, ctnetlink.ProtoUDP)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := got.Timeouts.Get(1); v != 11 || !ok || got.Has != HasFamily|HasProto {
		t.Errorf("default is %+v", got)
	}
	if _, err := Default(ctx, c, nl.FamilyIPv4, 50); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("default for esp: %v, want EOPNOTSUPP", err)
	}
}
