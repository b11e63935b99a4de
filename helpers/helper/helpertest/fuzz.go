package helpertest

import (
	"bytes"
	"testing"

	"ctbox/helpers/helper"
)

// Fuzz is the body of a fuzz target: h reads arbitrary packets of flows in either
// family, with and without translation, in every state and with any private data.
// It must not panic or write to the payload, and every answer must be valid. The seeds are
// payloads.
func Fuzz(f *testing.F, h *helper.Helper, seeds ...string) {
	private := make([]byte, h.PrivateLen)
	for _, seed := range seeds {
		for kind := range uint8(16) {
			f.Add(kind, uint8(helper.Established), private, []byte(seed))
			f.Add(kind, uint8(helper.EstablishedReply), private, []byte(seed))
			f.Add(kind, uint8(helper.New), private, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, kind, info uint8, private, payload []byte) {
		flow := kindOfFlow(t, h, kind)
		copy(flow.Private, private)
		p := flow.Packet(helper.Info(info)%5, string(payload))
		var a helper.Answer
		h.Read(p, &a)
		if !bytes.Equal(p.Payload, payload) {
			t.Error("the helper has written into the payload that it may only read")
		}
		if _, err := Text(p, &a); err != nil {
			t.Error(err)
		}
	})
}

// kindOfFlow returns a flow with the protocol, family and translation in the bits of kind.
func kindOfFlow(t testing.TB, h *helper.Helper, kind uint8) *Flow {
	const ipv6, nated, multicast, second = 1, 2, 4, 8
	proto := h.Protocols[0]
	if kind&second != 0 {
		proto = h.Protocols[len(h.Protocols)-1]
	}
	client, server, outside := "192.0.2.2:41000", "198.51.100.9:1900", "198.51.100.1:41000"
	if kind&multicast != 0 {
		server = "239.255.255.250:1900"
	}
	if kind&ipv6 != 0 {
		client, server, outside = "[2001:db8::2]:41000", "[2001:db8:1::9]:1900", "[2001:db8:1::1]:41000"
		if kind&multicast != 0 {
			server = "[ff02::c]:1900"
		}
	}
	if kind&nated != 0 {
		return NATed(t, h, proto, client, server, server, outside)
	}
	return New(t, h, proto, client, server)
}
