package interop

import (
	"encoding/binary"
	"io"
	"net"
	"time"
)

// The requests that the tests send to the control socket themselves: starting the client
// program many times a second would take the CPU time that the tested programs need.
const (
	dumpInternal    = 16
	dumpExternal    = 17
	commitFlows     = 18
	statsFlows      = 21
	statsNetwork    = 28
	statsCache      = 29
	statsRuntime    = 30
	statsLink       = 31
	statsQueue      = 36
	dumpInternalExp = 40
	dumpExternalExp = 41
	commitAll       = 46
	statsPeers      = 68
)

// request sends a number to the control socket and returns the answer. Both programs use the
// same protocol.
func (d *daemon) request(number uint32) (string, error) {
	conn, err := net.DialTimeout("unix", d.path("ctl"), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(binary.NativeEndian.AppendUint32(nil, number)); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	return string(text), err
}

// ask is request for a daemon that must answer.
func (d *daemon) ask(number uint32) string {
	d.t.Helper()
	text, err := d.request(number)
	if err != nil {
		d.t.Fatalf("%s: request %d: %v\n%s", d.name(), number, err, d.log())
	}
	return text
}
