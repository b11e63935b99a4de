package nl

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseAckText(t *testing.T) {
	for _, c := range []struct {
		flags   uint16
		refused uint32 // length of the refused request, as its header says
		want    string
	}{
		{ackTLVs | ackCapped, 0x1234, "invalid argument (invalid zone)"},
		{ackTLVs, NetlinkHeaderLen, "invalid argument (invalid zone)"},
		{0, NetlinkHeaderLen, "invalid argument"},
		{ackTLVs, 0x1000, "invalid argument"},
		{ackTLVs, 1 << 31, "invalid argument"}, // negative as an int of 32 bits
		{ackTLVs, 1<<32 - 1, "invalid argument"},
	} {
		b := make([]byte, NetlinkHeaderLen+4+NetlinkHeaderLen)
		native.PutUint16(b[4:], unix.NLMSG_ERROR)
		native.PutUint16(b[flagsOffset:], c.flags)
		errno := int32(-22)
		native.PutUint32(b[NetlinkHeaderLen:], uint32(errno))
		native.PutUint32(b[NetlinkHeaderLen+4:], c.refused)
		b = AppendString(b, nlmsgerrAttrMsg, []byte("invalid zone"))
		if err := ParseAck(b); err == nil || err.Error() != c.want {
			t.Errorf("flags %#x, a request of %#x bytes: got %v, want %s", c.flags, c.refused, err, c.want)
		}
	}
}
