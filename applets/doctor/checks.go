package doctor

// target is a set of applets.
type target uint8

const (
	forConntrack target = 1 << iota
	forConntrackd
	forNfct

	forAll = forConntrack | forConntrackd | forNfct
)

// check is one check. run may report several findings, or none if the check does not apply.
type check struct {
	id    string
	about target
	run   func(h *host, r *report)
}

// checks are all checks, in the order in which findings of the same severity are shown: from
// what everything needs to rare causes.
var checks = [...]check{
	{"privilege", forAll, checkPrivilege},
	{"ctnetlink", forConntrack | forConntrackd, checkConntrack},
	{"dump-filters", forConntrack, checkDumpFilters},
	{"cttimeout", forNfct, checkTimeouts},
	{"cthelper", forNfct | forConntrackd, checkHelpers},
	{"nfqueue", forConntrackd, checkQueue},
	{"config", forConntrackd, checkConfig},
	{"rules", forConntrack | forConntrackd, checkRules},
	{"table-full", forConntrack | forConntrackd, checkFull},
	{"table-buckets", forConntrack | forConntrackd, checkBuckets},
	{"table-memory", forConntrack | forConntrackd, checkTableMemory},
	{"counters", forConntrack | forConntrackd, checkCounters},
	{"events", forConntrack | forConntrackd, checkEvents},
	{"silent-flows", forConntrackd, checkSilentFlows},
	{"event-buffer", forConntrack | forConntrackd, checkEventBuffer},
	{"acct", forConntrack | forConntrackd, checkAcct},
	{"timestamp", forConntrack | forConntrackd, checkTimestamp},
	{"tcp-loose", forConntrackd, checkLoose},
	{"tcp-liberal", forConntrackd, checkLiberal},
	{"labels", forConntrack, checkLabels},
	{"auto-helper", forAll, checkAutoHelper},
	{"helper-clash", forConntrackd, checkHelperClash},
	{"helper-queue", forConntrackd | forNfct, checkHelperQueues},
	{"helper-rules", forAll, checkHelperRules},
	{"sync-link", forConntrackd, checkLink},
	{"sync-firewall", forConntrackd, checkFirewall},
	{"sync-peer", forConntrackd, checkPeer},
	{"sync-senders", forConntrackd, checkSenders},
	{"clock", forConntrackd, checkClock},
	{"memory", forConntrackd, checkMemory},
	{"files", forConntrackd, checkFiles},
}
