package conf

import (
	"errors"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ctbox/internal/feature"
)

// Severity is the severity of a Finding.
type Severity uint8

const (
	// Note is for a setting that works as written but may surprise.
	Note Severity = iota
	// Caution is for a setting that probably does not do what its author intended.
	Caution
	// Fatal is for a setting that keeps the daemon from starting or from working.
	Fatal
)

// Finding is one result of Check.
type Finding struct {
	File     string
	Pos      Pos // of the clause, or of the block that lacks it; the zero Pos if the file has neither
	Severity Severity
	Host     bool // the finding depends on this host, not only on the file
	Text     string
}

// String returns the finding as one line with its place in front.
func (f Finding) String() string { return string(appendPlace(nil, f.File, f.Pos)) + f.Text }

// Env is the host that a Config is checked against. Host is the real one.
type Env struct {
	// Interfaces returns the network interfaces.
	Interfaces func() ([]Interface, error)

	// Creatable returns nil if the file can be created or, when it exists,
	// written; otherwise the reason.
	Creatable func(path string) error

	// Type returns the type of the file at path, without following a symbolic link;
	// ok is false if the file does not exist.
	Type func(path string) (_ fs.FileMode, ok bool)

	// Head returns the first bytes of a regular file; "" if it does not exist.
	Head func(path string) string

	// Kernel returns nil if the kernel has the feature, otherwise an error that names what is missing.
	Kernel func(Feature) error

	// Sysctl returns a kernel parameter by its path below /proc/sys. If this kernel
	// does not have the parameter, the error wraps fs.ErrNotExist.
	Sysctl func(path string) (string, error)
}

// Interface is a network interface of the host.
type Interface struct {
	Name      string
	AltNames  []string
	MTU       int // bytes
	Up        bool
	Loopback  bool
	Multicast bool
	Addresses []netip.Addr // without zones
}

// Feature is a kernel feature that a configuration needs.
type Feature string

// The features that Check asks for.
const (
	FeatureConntrack Feature = "ctnetlink" // flows over netlink: nf_conntrack_netlink
	FeatureQueue     Feature = "nfqueue"   // packets to user space: nfnetlink_queue
	FeatureHelper    Feature = "cthelper"  // helpers in user space: nfnetlink_cthelper
)

// Check returns what would go wrong if the daemon were started with c in env. It
// changes nothing. The order of the findings is that of the clauses in the grammar's
// table. Without a Fatal finding the start may still fail: ports may be in use, and
// the host may have changed by then.
func (c *Config) Check(env Env) []Finding { return c.check(&env) }

// CheckFile returns what is wrong with c on every host. It does not look at the host
// that it runs on.
func (c *Config) CheckFile() []Finding { return c.check(nil) }

func (c *Config) check(env *Env) []Finding {
	k := &check{cfg: c, env: env}
	k.general()
	if c.Sync != nil {
		k.sync()
	}
	if c.Stats != nil {
		k.stats()
	}
	if c.Helper != nil {
		k.helper()
	}
	for i, e := range c.Exports {
		k.export(e, c.Exports[:i])
	}
	k.kernel()
	return k.found
}

// check is the state of one Check.
type check struct {
	cfg   *Config
	env   *Env // nil where only the file is checked
	found []Finding
}

// report adds a finding. Each of fields points to the field in question, or to the
// clause that contains it; the first one that the file sets gives the finding its place.
func (k *check) report(severity Severity, text string, fields ...any) {
	k.add(Finding{Severity: severity, Text: text}, fields)
}

// reportHost adds a finding about the host.
func (k *check) reportHost(severity Severity, text string, fields ...any) {
	k.add(Finding{Severity: severity, Host: true, Text: text}, fields)
}

func (k *check) add(f Finding, fields []any) {
	f.File = k.cfg.File
	for _, field := range fields {
		if pos, ok := k.cfg.Where(field); ok {
			f.Pos = pos
			break
		}
	}
	k.found = append(k.found, f)
}

func (k *check) general() {
	g := &k.cfg.General
	k.creatable("LogFile", g.LogFile, &g.LogFile)
	k.lock(g)
	k.socket(g)
	k.metrics(g)
	if _, unused := g.EventBuffer(); unused {
		text := "NetlinkBufferSize is greater than NetlinkBufferSizeMaxGrowth, the default is used instead"
		if g.NetlinkBufferSizeMaxGrowth == 0 {
			text = "NetlinkBufferSize has no effect without NetlinkBufferSizeMaxGrowth where NetlinkBufferSizeFixed is on, " +
				"the system's default is used instead"
		}
		k.report(Caution, text, &g.NetlinkBufferSize)
	}
	if g.Scheduler.Priority == 0 {
		k.report(Caution, "Priority 0 is no priority of a real-time policy: these are 1 to 99", &g.Scheduler.Priority)
	}
	if g.PollInterval > 0 && g.NetlinkEventsReliable {
		k.report(Note, "NetlinkEventsReliable has no effect with PollSecs", &g.NetlinkEventsReliable)
	}
	k.filter(&g.Filter)
	if limit, ok := k.sysctl("net/netfilter/nf_conntrack_max"); ok {
		n, err := strconv.ParseUint(limit, 10, 64)
		if nodes := k.nodesInKernel(); err == nil && n > uint64(g.HashLimit)*nodes {
			text := "a full table does not fit the cache"
			if nodes > 1 {
				text = "a full table of " + strconv.FormatUint(nodes, 10) + " nodes' flows does not fit their caches"
			}
			k.reportHost(Note, "HashLimit "+strconv.FormatUint(uint64(g.HashLimit), 10)+
				" is below net.netfilter.nf_conntrack_max, "+limit+": "+text, &g.HashLimit)
		}
	}
}

// lock checks the lock file. A file with a process id is fine: ctbox's conntrackd wrote it,
// and a new daemon takes it over if that process has ended. An empty file is the lock of
// conntrack-tools' conntrackd, which never removes it. A file with other contents is not
// taken over (row P19 of docs/differences.md).
func (k *check) lock(g *General) {
	if k.env == nil || !k.creatable("LockFile", g.LockFile, &g.LockFile) {
		return
	}
	owner := strings.TrimSpace(k.env.Head(g.LockFile))
	if strings.Trim(owner, "0123456789") != "" {
		k.reportHost(Fatal, "LockFile "+g.LockFile+" exists and is not a lock file", &g.LockFile)
	} else if _, ok := k.env.Type(g.LockFile); ok && owner == "" {
		k.reportHost(Note, "lockfile `"+g.LockFile+"' exists, perhaps conntrackd already running?", &g.LockFile)
	}
}

// socket checks the control socket. A stale socket is replaced at the start. Whether a
// daemon listens on it does not matter here: it may run with this very configuration.
func (k *check) socket(g *General) {
	if g.UNIXPath == "" {
		k.report(Caution, "no Path in UNIX: the daemon could not be controlled")
		return
	}
	if k.env == nil {
		return
	}
	if mode, ok := k.env.Type(g.UNIXPath); ok && mode != fs.ModeSocket {
		k.reportHost(Fatal, "Path "+g.UNIXPath+" exists and is not a socket", &g.UNIXPath)
		return
	}
	k.creatable("Path", g.UNIXPath, &g.UNIXPath)
}

func (k *check) metrics(g *General) {
	at := g.MetricsListen
	if !at.IsValid() || at.Addr().IsLoopback() {
		return
	}
	k.report(Caution, "Listen "+at.String()+" is open to others than this host: whoever can connect reads the metrics", &g.MetricsListen)
	if k.env == nil || at.Addr().IsUnspecified() {
		return
	}
	all, err := k.env.Interfaces()
	if err != nil {
		return
	}
	for _, i := range all {
		if slices.Contains(i.Addresses, at.Addr()) {
			return
		}
	}
	k.reportHost(Fatal, "no interface has the address of Listen "+at.String(), &g.MetricsListen)
}

func (k *check) filter(f *Filter) {
	if f.Protocol.Action == Accept && f.Protocol.Protocols == (ProtocolSet{}) {
		k.report(Caution, "Protocol Accept with an empty list drops every flow", &f.Protocol)
	}
	if f.Mark.Action == Accept && len(f.Mark.Marks) == 0 {
		k.report(Caution, "Mark Accept with an empty list drops every flow", &f.Mark)
	}
	if f.Zone.Action == Accept && len(f.Zone.Zones) == 0 {
		k.report(Caution, "Zone Accept with an empty list drops every flow", &f.Zone)
	}
	if f.Address.Action != Accept {
		return
	}
	var four, six bool
	for _, p := range f.Address.Prefixes {
		four, six = four || p.Addr().Is4(), six || p.Addr().Is6()
	}
	switch {
	case !four && !six:
		k.report(Caution, "Address Accept with an empty list drops every flow", &f.Address)
	case !four:
		k.report(Note, "Address Accept lists no IPv4 address, so every IPv4 flow is dropped", &f.Address)
	case !six:
		k.report(Note, "Address Accept lists no IPv6 address, so every IPv6 flow is dropped", &f.Address)
	}
}

func (k *check) stats() {
	s := k.cfg.Stats
	k.creatable("stats LogFile", s.LogFile, &s.LogFile, s)
	if s.LogFile != "" && filepath.Clean(s.LogFile) == filepath.Clean(k.cfg.General.LogFile) {
		k.report(Caution, "the flows and the daemon's messages go to one LogFile", &s.LogFile)
	}
	if v, ok := k.sysctl("net/netfilter/nf_conntrack_acct"); ok && v == "0" {
		k.reportHost(Note, "net.netfilter.nf_conntrack_acct is 0: flows have no packet and byte counts", s)
	}
}

func (k *check) helper() {
	h := k.cfg.Helper
	type key struct {
		helperObject
		six bool
	}
	queues, types := make(map[uint16]*HelperType), make(map[key]bool)
	for _, t := range h.Types {
		if types[key{t.object(), t.IPv6}] {
			k.report(Caution, "Type "+t.Name+" "+t.family()+" "+t.transport()+" is there already, and the first one counts", t)
		} else if other := queues[t.QueueNum]; other != nil {
			k.report(Note, "QueueNum "+strconv.Itoa(int(t.QueueNum))+" is that of Type "+other.Name+
				", too; in conntrack-tools the packets of both are one helper's", &t.QueueNum, t)
		}
		types[key{t.object(), t.IPv6}], queues[t.QueueNum] = true, t
	}
	if len(h.Types) == 0 {
		k.report(Caution, "Helper without any Type does nothing", h)
		return
	}
	for _, f := range []Feature{FeatureQueue, FeatureHelper} {
		if err := k.kernelHas(f); err != nil {
			k.reportHost(Fatal, "cannot use the kernel's "+string(f)+", which Helper needs: "+err.Error(), h)
		}
	}
}

// export checks an Export clause; before are those before it.
func (k *check) export(e *Export, before []*Export) {
	if text := e.Problem(); text != "" {
		k.report(Fatal, text, e)
		return
	}
	if !feature.Export || e.Format == ExportJSON && !feature.JSON {
		k.report(Fatal, "this ctbox was built without Export "+e.Format.String(), e)
		return
	}
	for _, other := range before {
		if e.Socket == "" && e.destination() == other.destination() {
			k.report(Caution, "another Export goes to "+e.destination()+", too", e)
			break
		}
	}
	if e.File != "-" {
		k.creatable("File", e.File, &e.File, e)
	}
	flows := e.Records&ExportFlows != 0
	switch {
	case e.Format == ExportJSON && e.Records == ExportNAT|ExportFlows:
		k.report(Note, "Records nat adds nothing to Records flow as json, which has the begin and the end of each flow", &e.Records)
	case !flows && e.ActiveTimeout > 0:
		k.report(Note, "ActiveTimeout has no effect without Records flow", &e.ActiveTimeout)
	}
	if !e.Destinations && (e.Format == ExportJSON && flows || e.Records&ExportNAT == 0) {
		k.report(Note, "Destinations off has no effect on Records flow", &e.Destinations)
	}
	k.filter(&e.Filter)
	if v, ok := k.sysctl("net/netfilter/nf_conntrack_acct"); ok && v == "0" && flows {
		k.reportHost(Note, "net.netfilter.nf_conntrack_acct is 0: flows have no packet and byte counts", e)
	}
	if v, ok := k.sysctl("net/netfilter/nf_conntrack_timestamp"); ok && v == "0" && flows {
		k.reportHost(Note, "net.netfilter.nf_conntrack_timestamp is 0: records have the time at which the daemon saw a flow begin, "+
			"and nothing for flows that are older than the daemon", e)
	}
}

// kernel checks what the daemon needs of the kernel in every mode.
func (k *check) kernel() {
	c := k.cfg
	if c.Sync == nil && c.Stats == nil && len(c.Exports) == 0 {
		if c.Helper == nil {
			k.report(Caution, "neither Sync nor Stats nor Helper nor Export: the daemon would do nothing")
		}
		return
	}
	if err := k.kernelHas(FeatureConntrack); err != nil {
		k.reportHost(Fatal, "cannot use the kernel's "+string(FeatureConntrack)+": "+err.Error())
		return
	}
	if c.General.PollInterval > 0 && len(c.Exports) == 0 {
		return
	}
	if v, ok := k.sysctl("net/netfilter/nf_conntrack_events"); ok && v == "0" {
		k.reportHost(Fatal, "net.netfilter.nf_conntrack_events is 0: the kernel sends no events, set it to 1 or use PollSecs")
	}
}

// kernelHas returns why the kernel lacks a feature, or nil.
func (k *check) kernelHas(f Feature) error {
	if k.env == nil {
		return nil
	}
	return k.env.Kernel(f)
}

// sysctl returns a kernel parameter. ok is false if it cannot be read.
func (k *check) sysctl(path string) (value string, ok bool) {
	if k.env == nil {
		return "", false
	}
	value, err := k.env.Sysctl(path)
	return value, err == nil
}

// creatable checks that a file can be created, and reports whether it can. The reason
// does not repeat the path.
func (k *check) creatable(keyword, path string, fields ...any) bool {
	if k.env == nil || path == "" {
		return true
	}
	err := k.env.Creatable(path)
	if err == nil {
		return true
	}
	var pathErr *fs.PathError
	where := path
	if errors.As(err, &pathErr) {
		where, err = pathErr.Path, pathErr.Err
	}
	k.reportHost(Fatal, "cannot create "+keyword+" "+path+": "+where+": "+err.Error(), fields...)
	return false
}
