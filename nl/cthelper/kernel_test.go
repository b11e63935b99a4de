package cthelper

import (
	"context"
	"errors"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// The table is the whole machine's, so this test changes nothing in it. What it
// can see depends on the kernel, and either answer is checked.
func TestKernel(t *testing.T) {
	ctx := context.Background()
	var c *nl.Conn
	netnstest.New(t, "cthelper").Do(func() {
		var err error
		if c, err = nl.Dial(nl.Config{}); err != nil {
			t.Fatal(err)
		}
	})
	defer c.Close()
	available, err := Available(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("nfnetlink_cthelper available: %v", available)
	absent := Key{Name: "ctbox-none", Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP}
	wantList, wantGet := error(nil), error(unix.ENOENT)
	if !available {
		wantList, wantGet = unix.EINVAL, unix.EINVAL
	}
	if err := List(ctx, c, func(*Helper) error { return nil }); !errors.Is(err, wantList) {
		t.Errorf("list: %v, want %v", err, wantList)
	}
	for _, key := range []Key{absent, {Name: absent.Name}} {
		if _, err := Get(ctx, c, key); !errors.Is(err, wantGet) {
			t.Errorf("get %+v: %v, want %v", key, err, wantGet)
		}
	}
	off := Helper{Has: HasName | HasTuple | HasStatus, Name: absent.Name, Family: absent.Family, Proto: absent.Proto}
	if err := Set(ctx, c, &off); !errors.Is(err, unix.EINVAL) {
		t.Errorf("change of what is not there: %v, want EINVAL", err)
	}
}
