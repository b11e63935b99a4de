package format

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"ctbox/nl/ctnetlink"
)

func TestFlowXML(t *testing.T) {
	const v4a, v4b = "192.0.2.1", "192.0.2.2"
	const layer3 = `<layer3 protonum="2" protoname="ipv4"><src>192.0.2.1</src><dst>192.0.2.2</dst></layer3>`
	const layer3Reply = `<layer3 protonum="2" protoname="ipv4"><src>192.0.2.2</src><dst>192.0.2.1</dst></layer3>`
	names := make([]string, 128)
	names[1], names[40] = "one", "forty"
	tests := []struct {
		name  string
		f     *ctnetlink.Flow
		style Style
		event *Event
		want  string
	}{
		{"destroy", flow(ports(tuple(6, v4a, v4b), 1000, 80), timeout(499), tcpState(1), counters(0, 0, 0, 0), status(8), mark(9), id(3167444815), started(2*second), stopped(2*second)), Style{}, &Event{Type: Destroy, PortID: 9},
			`<flow type="destroy"><meta direction="original">` + layer3 + `<layer4 protonum="6" protoname="tcp"><sport>1000</sport><dport>80</dport></layer4><counters><packets>0</packets><bytes>0</bytes></counters></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="6" protoname="tcp"><sport>80</sport><dport>1000</dport></layer4><counters><packets>0</packets><bytes>0</bytes></counters></meta><meta direction="independent"><state>SYN_SENT</state><timeout>499</timeout><mark>9</mark><id>3167444815</id><unreplied/><deltatime>0</deltatime></meta></flow>`},
		{"listed", ftpControl(), Style{}, nil,
			`<flow><meta direction="original">` + layer3 + `<layer4 protonum="6" protoname="tcp"><sport>34746</sport><dport>21</dport></layer4><counters><packets>5</packets><bytes>290</bytes></counters></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="6" protoname="tcp"><sport>21</sport><dport>34746</dport></layer4><counters><packets>4</packets><bytes>232</bytes></counters></meta><meta direction="independent"><state>ESTABLISHED</state><timeout>431999</timeout><mark>0</mark><use>1</use><id>2072818273</id><assured/><deltatime>1</deltatime></meta><helper>ftp</helper></flow>`},
		{"timestamps, labels, when", flow(ports(tuple(47, v4a, v4b), 16, 77), labels(1, 3, 40), zone(7), secmark(5), secctx("a<b>&c\n\xff"), use(1), id(7), started(3*second)), Style{KTimestamp: true, Labels: names, Timestamp: true}, &Event{Type: New, Time: now},
			`<flow type="new"><meta direction="original">` + layer3 + `<layer4 protonum="47" protoname="gre"><srckey>0x10</srckey><dstkey>0x4d</dstkey></layer4></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="47" protoname="gre"><srckey>0x4d</srckey><dstkey>0x10</dstkey></layer4></meta><meta direction="independent"><labels><label>one</label><label>forty</label></labels><secmark>5</secmark><secctx>a&lt;b&gt;&amp;c` + "\ufffd\ufffd" + `</secctx><zone>7</zone><use>1</use><id>7</id><timestamp><start>1795395624589432123</start></timestamp><deltatime>3</deltatime></meta><when><hour>1</hour><min>00</min><sec>27</sec><wday>2</wday><day>23</day><month>11</month><year>2026</year></when></flow>`},
		{"icmp and zones", flow(icmp(tuple(1, v4a, v4b), 8, 0, 5), replyZone(4)), Style{}, nil,
			`<flow><meta direction="original">` + layer3 + `<layer4 protonum="1" protoname="icmp"><icmp-type>8</icmp-type><icmp-code>0</icmp-code><icmp-id>5</icmp-id></layer4></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="1" protoname="icmp"><icmp-type>0</icmp-type><icmp-code>0</icmp-code><icmp-id>5</icmp-id></layer4><zone>4</zone></meta></flow>`},
		{"sctp state by its own name", flow(ports(tuple(132, v4a, v4b), 5, 6), sctp(4, 0, 0)), Style{Labels: names}, nil,
			`<flow><meta direction="original">` + layer3 + `<layer4 protonum="132" protoname="sctp"><sport>5</sport><dport>6</dport></layer4></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="132" protoname="sctp"><sport>6</sport><dport>5</dport></layer4></meta><meta direction="independent"><state>ESTABLISHED</state></meta></flow>`},
		{"without reply", flow(ports(tuple(6, v4a, v4b), 5, 6), mark(4660), zone(7), status(8), use(3), func(f *ctnetlink.Flow) { f.Reply = ctnetlink.Tuple{} }), Style{Without: CacheWithout}, nil,
			`<flow><meta direction="original">` + layer3 + `<layer4 protonum="6" protoname="tcp"><sport>5</sport><dport>6</dport></layer4></meta><meta direction="reply"><layer3 protonum="0" protoname="unknown"><src></src><dst></dst></layer3><layer4 protonum="0" protoname="unknown"></layer4></meta><meta direction="independent"><mark>4660</mark><zone>7</zone><unreplied/></meta></flow>`},
		{"ended, its times", flow(tuple(203, v4a, v4b), started(5*second+1), stopped(2*second)), Style{KTimestamp: true}, &Event{Type: Destroy},
			`<flow type="destroy"><meta direction="original">` + layer3 + `<layer4 protonum="203" protoname="unknown"></layer4></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="203" protoname="unknown"></layer4></meta><meta direction="independent"><timestamp><start>1795395622589432122</start><stop>1795395625589432123</stop></timestamp><deltatime>3</deltatime></meta></flow>`},
		{"times that the kernel does not keep", flow(tuple(203, v4a, v4b), use(1), secctx("\x80")), Style{KTimestamp: true}, nil,
			`<flow><meta direction="original">` + layer3 + `<layer4 protonum="203" protoname="unknown"></layer4></meta><meta direction="reply">` + layer3Reply + `<layer4 protonum="203" protoname="unknown"></layer4></meta><meta direction="independent"><secctx>` + "\ufffd" + `</secctx><use>1</use></meta></flow>`},
	}
	for _, tt := range tests {
		tt.style.Format, tt.style.Now = XML, now
		got := string(AppendFlow(nil, tt.f, &tt.style, tt.event))
		check(t, tt.name, got, tt.want)
		wellFormed(t, XMLHeader+got+"\n"+XMLFooter)
	}
}

func TestExpectXML(t *testing.T) {
	x := ftpData()
	x.Zone, x.Flags = 5, 7
	x.Has |= ctnetlink.ExpectHasZone | ctnetlink.ExpectHasFlags
	got := string(AppendExpect(nil, x, &Style{Format: XML}, &Event{Type: New}))
	check(t, "expectation", got, `<flow type="new"><layer3 protonum="2" protoname="ipv4"><expected><src>192.0.2.2</src><dst>192.0.2.1</dst></expected><mask><src>255.255.255.255</src><dst>255.255.255.255</dst></mask><master><src>192.0.2.1</src><dst>192.0.2.2</dst></master></layer3><layer4 protonum="6" protoname="tcp"><expected><sport>0</sport><dport>5142</dport></expected><mask><sport>0</sport><dport>65535</dport></mask><master><sport>41840</sport><dport>21</dport></master></layer4><meta><helper-name>ftp</helper-name><timeout>298</timeout><class>0</class><zone>5</zone><permanent/><inactive/><userspace/></meta></flow>`)
	wellFormed(t, XMLExpectHeader+got+"\n"+XMLExpectFooter)
}

func wellFormed(t *testing.T, doc string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(doc))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, doc)
		}
	}
}
