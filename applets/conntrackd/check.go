package conntrackd

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"ctbox/conf"
)

// severities are what stands in front of a finding's text.
var severities = [...]string{conf.Note: "note: ", conf.Caution: "warning: ", conf.Fatal: "error: "}

// runCheck is --check: it says on standard error what is wrong with the file, or
// with the file on this host, and on standard output what a daemon would do. The
// status is 1 if it would not start, or start and not work.
func runCheck(name string, stdout, stderr io.Writer) int {
	cfg, warnings, err := conf.Load(name)
	for _, w := range warnings {
		fmt.Fprintln(stderr, w.String())
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	status := exitOK
	for _, f := range cfg.Check(conf.Host()) {
		place := strings.TrimSuffix(f.String(), f.Text)
		fmt.Fprintln(stderr, place+severities[f.Severity]+f.Text)
		if f.Severity == conf.Fatal {
			status = exitFailed
		}
	}
	stdout.Write(appendPlan(nil, cfg, status == exitOK))
	return status
}

// appendPlan says what a daemon with cfg would do: the kind of daemon in words,
// and all that is in force, defaults included, as a configuration.
func appendPlan(dst []byte, cfg *conf.Config, works bool) []byte {
	verdict := "conntrackd would not work on this host with " + cfg.File
	if works {
		verdict = "conntrackd would start with " + cfg.File + " " + purpose(cfg)
	}
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
	if len(does) == 0 {
		return "and do nothing but answer commands"
	}
	return "and " + strings.Join(does, " and ")
}
