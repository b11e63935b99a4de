package conf

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctbox/internal/seeds"
)

// changes returns what a reload from old to next changes: the paths of live clauses, and
// the messages about the others.
func changes(t *testing.T, old, next string) (live, refused []string) {
	t.Helper()
	before, _, err := Parse("old", []byte(old))
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := Parse("new", []byte(next))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range before.Changes(after) {
		if c.Live {
			live = append(live, c.Path)
		} else {
			refused = append(refused, c.String())
		}
	}
	return live, refused
}

func TestChanges(t *testing.T) {
	const udp = "UDP {\n IPv4_address 192.0.2.1\n IPv4_Destination_Address 192.0.2.2\n Port 3780\n Interface sync0\n}\n"
	const running = " while the daemon runs"
	for name, c := range map[string]struct {
		old, next     string
		live, refused []string
	}{
		"nothing":        {old: "General {\n}", next: "General {\n}"},
		"defaults":       {old: "", next: "General {\n HashLimit 262144\n LogFile off\n Systemd yes\n}"},
		"comments":       {old: "Stats {\n}", next: "# none\n\nStats { }"},
		"order":          {old: "General {\n HashLimit 5\n LogFile /a\n}", next: "General {\n LogFile /a\n HashLimit 5\n}"},
		"ignored":        {old: "General {\n Nice -5\n}", next: ""},
		"live":           {old: "General {\n HashLimit 5\n}", next: "General {\n HashLimit 6\n Syslog on\n}", live: []string{"General HashLimit", "General Syslog"}},
		"to the default": {old: "General {\n LogFile /a\n}", next: "", live: []string{"General LogFile"}},
		"filter": {
			old:  "General {\n Filter {\n  Address Ignore {\n   IPv4_address 192.0.2.1\n  }\n }\n}",
			next: "General {\n Filter From Kernelspace {\n  Address Ignore {\n   IPv4_address 192.0.2.1\n  }\n }\n}",
			live: []string{"General Filter"},
		},
		"filter's list": {
			old:  "General {\n Filter {\n  Protocol Accept {\n   TCP\n  }\n }\n}",
			next: "General {\n Filter {\n  Protocol Accept {\n   TCP\n   UDP\n  }\n }\n}",
			live: []string{"General Filter"},
		},
		"filter in two": {
			old:  "General {\n Filter {\n  Protocol Accept {\n   TCP\n   UDP\n  }\n }\n}",
			next: "General {\n Filter {\n  Protocol Accept {\n   UDP\n  }\n }\n Filter {\n  Protocol Accept {\n   TCP\n  }\n }\n}",
		},
		"export": {
			old: "Export json {\n File /a\n}\nExport json {\n File /b\n}", next: "Export json {\n File /b\n Filter {\n  Protocol Accept {\n   TCP\n  }\n }\n}\nExport ipfix {\n Collector 192.0.2.9\n}",
			live: []string{"Export"},
		},
		"same export": {old: "Export json {\n File /a\n}", next: "Export json {\n Records flow\n File /a\n}"},
		"path": {
			old: "General {\n UNIX {\n  Path /a\n }\n}", next: "General {\n UNIX {\n  Path /b\n }\n}",
			refused: []string{"new:3:3: Path /b cannot replace Path /a" + running},
		},
		"gone": {
			old: "General {\n UNIX {\n  Path /a\n }\n}", next: "General {\n UNIX {\n }\n}",
			refused: []string{"new:2:2: Path /a cannot be taken away" + running},
		},
		"back to a default": {
			old: "General {\n LockFile /a\n}", next: "\nGeneral {\n}",
			refused: []string{"new:2:1: LockFile /var/lock/conntrackd.lock cannot replace LockFile /a" + running},
		},
		"both kinds": {
			old: "General {\n HashLimit 5\n}", next: "General {\n HashLimit 6\n HashSize 7\n}",
			live: []string{"General HashLimit"}, refused: []string{"new:3:2: HashSize 7 cannot replace HashSize 65536" + running},
		},
		"another daemon": {
			old: "Stats {\n}", next: "Sync {\n Mode ALARM {\n }\n}",
			refused: []string{"new:1:1: Sync cannot be added" + running, "new: Stats cannot be taken away" + running},
		},
		"mode": {
			old: "Sync {\n Mode FTFW {\n  ACKWindowSize 7\n }\n}", next: "Sync {\n Mode NOTRACK {\n  PurgeTimeout 5\n }\n}",
			refused: []string{"new:2:2: Mode NOTRACK cannot replace Mode FTFW" + running},
		},
		"in the mode": {
			old: "Sync {\n Mode FTFW {\n  ACKWindowSize 7\n }\n}", next: "Sync {\n Mode FTFW {\n  PurgeTimeout 5\n  DisableExternalCache on\n }\n}",
			live:    []string{"Sync Mode ACKWindowSize", "Sync Mode PurgeTimeout"},
			refused: []string{"new:4:3: DisableExternalCache on cannot replace DisableExternalCache off" + running},
		},
		"outside of the mode": {
			old: "Sync {\n Mode FTFW {\n  CommitTimeout 5\n }\n}", next: "Sync {\n CommitTimeout 5\n Mode FTFW {\n }\n}",
		},
		"for another mode": {
			old: "Sync {\n Mode FTFW {\n }\n}", next: "Sync {\n RefreshTime 5\n Mode FTFW {\n }\n}",
			live: []string{"Sync RefreshTime"},
		},
		"a link's port": {
			old: "Sync {\n" + udp + "}", next: "Sync {\n" + strings.Replace(udp, "3780", "3781", 1) + "}",
			refused: []string{"new:5:2: Port 3781 cannot replace Port 3780" + running},
		},
		"a link's family": {
			old: "Sync {\n" + udp + "}", next: "Sync {\n" + strings.Replace(udp, "IPv4_address 192.0.2.1", "IPv6_address 2001:db8::1", 1) + "}",
			refused: []string{"new:3:2: IPv4_address 192.0.2.1 cannot be taken away" + running,
				"new:3:2: IPv6_address 2001:db8::1 cannot be added" + running},
		},
		"another link": {
			old: "Sync {\n" + udp + "}", next: "Sync {\n" + udp + udp + "}",
			refused: []string{"new:8:1: UDP cannot be added" + running},
		},
		"default link": {
			old: "Sync {\n" + udp + udp + "}", next: "Sync {\n" + udp + strings.Replace(udp, "UDP", "UDP Default", 1) + "}",
			refused: []string{"new:2:1: UDP cannot replace UDP Default" + running, "new:8:1: UDP Default cannot replace UDP" + running},
		},
		"no link": {
			old: "Sync {\n" + udp + "}", next: "\nSync {\n}",
			refused: []string{"new:2:1: UDP Default cannot be taken away" + running},
		},
		"expectations": {
			old: "Sync {\n Options {\n  ExpectationSync on\n }\n}", next: "Sync {\n Options {\n  ExpectationSync {\n   ftp\n   sip\n  }\n }\n}",
			refused: []string{"new:3:3: ExpectationSync { ftp sip } cannot replace ExpectationSync on" + running},
		},
		"cluster": {
			old:     "Sync {\n}",
			next:    "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { }\n }\n}",
			refused: []string{"new:2:2: Cluster cannot be added" + running},
		},
		"cluster's name": {
			old:     "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { }\n }\n}",
			next:    "Sync {\n Cluster {\n  Name b Node 1 z Peer 2 y { }\n }\n}",
			refused: []string{"new:3:3: Name b cannot replace Name a" + running, "new:3:10: Node 1 z cannot replace Node 1 x" + running},
		},
		"cluster's keys": {
			old:  "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { } Key 1 /k\n }\n}",
			next: "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { Port 5 } Key 1 /k Key 2 /l Send 2 AllowPlain on\n }\n}",
			live: []string{"Sync Cluster Peer", "Sync Cluster Key", "Sync Cluster Send", "Sync Cluster AllowPlain"},
		},
		"hot standby": {
			old:     "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { }\n }\n}",
			next:    "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { }\n  HotStandby on\n }\n}",
			refused: []string{"new:4:3: HotStandby on cannot replace HotStandby off" + running},
		},
		"the only key is sent": {
			old:  "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { } Key 1 /k\n }\n}",
			next: "Sync {\n Cluster {\n  Name a Node 1 x Peer 2 y { } Key 1 /k Send 1\n }\n}",
		},
		"delay": {old: "Sync {\n}", next: "Sync {\n Delay {\n  TCP 3\n }\n}", live: []string{"Sync Delay"}},
		"stats": {old: "Stats {\n}", next: "Stats {\n LogFile /a\n}", live: []string{"Stats LogFile"}},
		"helper's policy": {
			old:     "Helper {\n Type ftp inet tcp {\n  Policy ftp {\n   ExpectMax 1\n  }\n }\n}",
			next:    "Helper {\n Type ftp inet tcp {\n  Policy ftp {\n   ExpectMax 2\n  }\n }\n}",
			refused: []string{"new:2:2: ExpectMax 2 cannot replace ExpectMax 1" + running},
		},
		"helper": {
			old:     "Helper {\n Type ftp inet tcp {\n }\n}",
			next:    "Helper {\n Type ftp inet6 tcp {\n }\n}",
			refused: []string{"new:2:2: Type ftp inet6 tcp cannot replace Type ftp inet tcp" + running},
		},
	} {
		t.Run(name, func(t *testing.T) {
			live, refused := changes(t, c.old, c.next)
			if diff := cmp.Diff(c.live, live); diff != "" {
				t.Errorf("live (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.refused, refused); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
		})
	}
}

// Changes finds a difference exactly where the printed configurations differ.
func TestChangesMatchThePrintedForm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	configs := seeds.Count(200)
	var all []*Config
	var printed []string
	for range configs {
		if c, _, err := Parse("random", []byte(randomFile(r, true))); err == nil {
			all = append(all, c)
			printed = append(printed, string(AppendEffective(nil, c)))
		}
	}
	for a, before := range all {
		for b, after := range all {
			differ := printed[a] != printed[b]
			if got := before.Changes(after); len(got) > 0 != differ {
				t.Fatalf("%d to %d: changes %v, printed otherwise %v:\n%s\n---\n%s", a, b, got, differ, printed[a], printed[b])
			}
		}
	}
	if uint64(len(all)) < configs/4 {
		t.Fatalf("only %d of the random files are good", len(all))
	}
}
