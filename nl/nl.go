// Package nl speaks with the kernel's connection tracking over nfnetlink: flows
// and expectations, their statistics, dumps, batches of changes and event
// subscriptions.
//
// flow.go and expect.go hold the types, decode.go and encode.go turn netlink
// attributes into them and back, without any I/O. Conn does the I/O. Nothing
// here prints, logs or knows of command lines.
//
// Byte order: netlink and attribute headers are in the machine's order, the
// payloads of ctnetlink in network order (labels are the exception); every value
// in this package's types is in host order.
package nl
