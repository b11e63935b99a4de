package ctnetlink

import (
	"context"
	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// Features are the kernel's abilities that requests depend on for safety: a request whose
// filter an older kernel ignores would act on the whole table.
type Features struct {
	StatusFilter bool // CTA_STATUS_MASK in dumps (6.1 has it, 5.10 does not)
	TupleFilter  bool // CTA_FILTER in dumps (Linux 5.8)
	ZoneFilter   bool // CTA_ZONE in dumps and flushes (Linux 6.8)
}

// ProbeFeatures detects the kernel's features with requests that change nothing: each has a
// value that a kernel with the feature refuses. A kernel without it starts a dump, which is
// ended by closing the socket.
func ProbeFeatures(ctx context.Context, config nl.Config) (Features, error) {
	var f Features
	for _, probe := range [...]struct {
		filter Flow
		tuples bool
		known  *bool
	}{
		// A status mask of 0 is invalid.
		{filter: Flow{Has: HasStatus | HasStatusMask}, known: &f.StatusFilter},
		// A tuple filter for a field that the request lacks is invalid.
		{filter: Flow{Orig: Tuple{Has: TupleICMPID}}, tuples: true, known: &f.TupleFilter},
	} {
		refused, err := refusesDump(ctx, config, Dump{Type: TypeFlowGet, Family: nl.FamilyIPv4,
			Filter: &probe.filter, FilterTuples: probe.tuples})
		if err != nil {
			return f, err
		}
		*probe.known = refused
	}
	// The zone has no value that is invalid; its filter has no other trace than
	// the version.
	f.ZoneFilter = kernelAtLeast(6, 8)
	return f, nil
}

// errProbed ends a probe's dump at its first entry.
type errProbed struct{}

func (errProbed) Error() string { return "dump started" }

func refusesDump(ctx context.Context, config nl.Config, d Dump) (bool, error) {
	c, err := nl.Dial(config)
	if err != nil {
		return false, err
	}
	defer c.Close()
	_, err = c.Dump(ctx, d.Request(), func(*nl.Message) error { return errProbed{} })
	switch e := err.(type) {
	case nil, errProbed:
		return false, nil
	case *nl.Error:
		if e.Errno == unix.EINVAL || e.Errno == unix.EOPNOTSUPP {
			return true, nil
		}
	}
	return false, err
}

// kernelAtLeast compares the running kernel's version.
func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var v [2]int
	i := 0
	for _, c := range u.Release {
		if c >= '0' && c <= '9' {
			v[i] = v[i]*10 + int(c-'0')
		} else if c == '.' && i == 0 {
			i++
		} else {
			break
		}
	}
	return v[0] > major || v[0] == major && v[1] >= minor
}
