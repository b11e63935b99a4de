// Package export logs flows and translations: it makes records of the kernel's events and sends
// them to IPFIX collectors, files, sockets and syslog.
//
//   - record.go: Record, what is known about a flow at one moment, and Choice, which records are
//     made;
//   - ipfix.go: records as IPFIX data records, templates, messages;
//   - text.go: records as JSON objects, messages of syslog;
//   - queue.go: the bounded queue of encoded records between the two goroutines of an exporter;
//   - sender.go, collector.go: the goroutine that empties the queue, and the transports.
//
// Who makes records encodes each at once and puts it into the queue, which never blocks; the
// sender's goroutine alone waits for disks and networks.
package export
