package conntrackd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"ctbox/conf"
	"ctbox/internal/nftrules"
)

// severities are the prefixes of findings.
var severities = [...]string{conf.Note: "note: ", conf.Caution: "warning: ", conf.Fatal: "error: "}

// exitHost is the exit status of --check for a valid file on a host that lacks something.
const exitHost = 2

// runCheck is --check. It prints the problems of the file, and of this host unless syntax is
// set, on standard error, and what a daemon would do on standard output. The status is 1 if
// the daemon would not start or not work with the file on any host, and exitHost if only
// this host prevents it.
func runCheck(name string, syntax bool, stdout, stderr io.Writer) int {
	cfg, warnings, err := conf.Load(name)
	for _, w := range warnings {
		fmt.Fprintln(stderr, w.String())
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	var found []conf.Finding
	if syntax {
		found = cfg.CheckFile()
	} else {
		found = append(cfg.Check(conf.Host()), checkKeys(cfg)...)
	}
	status := exitOK
	for _, f := range found {
		place := strings.TrimSuffix(f.String(), f.Text)
		fmt.Fprintln(stderr, place+severities[f.Severity]+f.Text)
		switch {
		case f.Severity != conf.Fatal:
		case !f.Host:
			status = exitFailed
		case status == exitOK:
			status = exitHost
		}
	}
	if !syntax && cfg.Sync != nil && cfg.Sync.Cluster == nil {
		noteZones(stderr, cfg.File)
	}
	verdict := "conntrackd would start with " + cfg.File + " " + purpose(cfg)
	switch {
	case status == exitFailed:
		verdict = "conntrackd would not work with " + cfg.File
	case status == exitHost:
		verdict = "conntrackd would not work on this host with " + cfg.File
	case syntax:
		verdict = cfg.File + " is valid; conntrackd would start with it " + purpose(cfg)
	}
	stdout.Write(appendPlan(nil, cfg, verdict))
	return status
}

// noteZones prints a note if rules of this host create flows that version 1 of the protocol cannot carry.
// Rules of iptables-legacy, and rules that cannot be read, are not examined.
func noteZones(stderr io.Writer, file string) {
	if n, err := nftrules.OneWayZones(context.Background()); err == nil && n > 0 {
		fmt.Fprintf(stderr, "%s: %s%d rules of this host set a zone of one direction (ct original zone set, CT --zone-orig): flows with such a zone are not replicated\n",
			file, severities[conf.Note], n)
	}
}

// appendPlan appends the verdict and the effective configuration, including defaults.
func appendPlan(dst []byte, cfg *conf.Config, verdict string) []byte {
	dst = append(append(dst, verdict...), ". In force would be:\n\n"...)
	return append(bytes.TrimRight(conf.AppendEffective(dst, cfg), "\n"), '\n')
}

func purpose(cfg *conf.Config) string {
	var does []string
	if s := cfg.Sync; s != nil {
		text := "replicate flows"
		if s.ExpectationSync {
			text += " and expectations"
		}
		does = append(does, fmt.Sprintf("%s in %s mode over %d link(s)", text, s.Mode, len(s.Links)))
	}
	if cfg.Stats != nil {
		does = append(does, "keep statistics of flows")
	}
	if h := cfg.Helper; h != nil && len(h.Types) > 0 {
		does = append(does, "run the helpers "+strings.Join(helperNames(h), ", "))
	}
	for _, e := range cfg.Exports {
		does = append(does, fmt.Sprintf("send records (%s) as %s to %s", strings.Join(strings.FieldsFunc(e.Records.String(), func(r rune) bool {
			return strings.ContainsRune("{ }", r)
		}), ", "), e.Format, destinationOf(e).String()))
	}
	if len(does) == 0 {
		return "and do nothing but answer commands"
	}
	return "and " + strings.Join(does, " and ")
}
