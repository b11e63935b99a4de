package ctnetlink_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// Reading a table: the kernel leaves out what the filter excludes, as far as it knows
// the filter, so that the receiver compares again.
func ExampleDumpFlows() {
	conn, err := nl.Dial(nl.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	const mark = 7
	dump := ctnetlink.Dump{Type: ctnetlink.TypeFlowGet, Filter: &ctnetlink.Flow{
		Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: mark, MarkMask: ^uint32(0),
	}}
	info, err := ctnetlink.DumpFlows(context.Background(), conn, dump, func(f *ctnetlink.Flow) error {
		if f.Has&ctnetlink.HasMark != 0 && f.Mark == mark {
			src := netip.AddrFrom4([4]byte(f.Orig.Src[:4]))
			fmt.Println(ctnetlink.ProtoName(f.Orig.Proto), src, f.Orig.SrcPort)
		}
		return nil // f is valid until here: f.Clone() keeps it
	})
	if err != nil {
		log.Fatal(err)
	}
	if info.Interrupted {
		log.Print("the table changed while it was read: entries may be missing or double")
	}
}

// Changing many flows: batches of requests go to the kernel while the next ones are
// made, and the kernel reports each request that it refuses.
func ExampleFlow_Append() {
	conn, err := nl.Dial(nl.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	pipeline := conn.NewPipeline(context.Background(), func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			log.Printf("request %d of the batch: %v", f.Index, f.Err)
		}
		return nil
	})
	batch, err := pipeline.Batch()
	for port := uint16(40000); port < 50000 && err == nil; port++ {
		var f ctnetlink.Flow
		f.Has = ctnetlink.HasTimeout | ctnetlink.HasStatus
		f.Timeout, f.Status = 60, ctnetlink.StatusConfirmed
		f.Orig = ctnetlink.Tuple{
			Has:    ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts,
			Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP,
			Src: ctnetlink.Addr{192, 0, 2, 1}, Dst: ctnetlink.Addr{198, 51, 100, 1},
			SrcPort: port, DstPort: 53,
		}
		f.Reply = f.Orig.Inverted()
		batch.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
			Family: nl.FamilyIPv4, Attrs: f.Append})
		if batch.Full() {
			if err = pipeline.Submit(batch); err == nil {
				batch, err = pipeline.Batch()
			}
		}
	}
	if err == nil {
		err = pipeline.Submit(batch)
	}
	if closing := pipeline.Close(); err == nil {
		err = closing
	}
	if err != nil {
		log.Fatal(err)
	}
}

// Following the kernel's events. What the kernel had to drop is counted.
func ExampleSubscribe() {
	sub, err := ctnetlink.Subscribe(ctnetlink.EventOptions{
		Groups: ctnetlink.AllFlowEvents,
		Filter: &ctnetlink.EventFilter{Proto: ctnetlink.ProtoTCP},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sub.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var events *ctnetlink.Events
	var f ctnetlink.Flow
	for {
		if events, err = sub.Next(ctx, events); err != nil {
			log.Print(err)
			return
		}
		if events.Dropped > 0 {
			log.Printf("%d events were dropped since the beginning", events.Dropped)
		}
		_ = events.Each(func(m *nl.Message, received time.Time) error {
			if err := f.Decode(m.Attrs); err != nil {
				return err
			}
			switch {
			case ctnetlink.IsDelete(m):
				fmt.Println(received, "ended", f.ID)
			case ctnetlink.IsNew(m):
				fmt.Println(received, "began", f.ID)
			}
			return nil
		})
	}
}
