// Package export logs flows and translations: it makes records of the kernel's events and sends
// them to IPFIX collectors, files, sockets and syslog.
//
//   - record.go: Record, what is known about a flow at one moment, and Choice, which records are
//     made;
//   - ipfix.go: records as IPFIX data records, templates, messages;
//   - text.go: records as JSON objects, messages of syslog;
//   - queue.go: the bounded queue of encoded records between the two goroutines of an exporter;
//   - sender.go, collector.go: the goroutine that empties the queue, and the transports;
//   - exporter.go: settings, the sending half, counters;
//   - source.go: Exporter, which follows the kernel with a sync/follow.Follower and makes records.
//
// An exporter has a subscription, a scheduler and a table of flows of its own: what the kernel
// drops is counted for each exporter, and nothing waits for it. The goroutine that follows the
// events encodes each record at once and puts it into the queue, which never blocks; the
// sender's goroutine alone waits for disks and networks.
//
// The clause of conntrackd.conf is in conf/grammar_export.go, the daemon's part in
// applets/conntrackd/exports.go; the tests with a daemon are in daemon_test.go.
package export
