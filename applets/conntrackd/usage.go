package conntrackd

import "ctbox/internal/version"

// usage is what -h prints, and what follows most errors on the command line. The
// lines that conntrack-tools has too are byte for byte the same.
func usage(argv0 string) string {
	return `Connection tracking userspace daemon v` + version.ConntrackTools + `
Usage: ` + argv0 + ` [commands] [options]

General commands:
  -d, run in daemon mode
  -C [configfile], configuration file path
  --no-sandbox, keep all privileges and system calls of the daemon
  --check [--syntax], check the configuration file, on this host or alone
  -v, display conntrackd version
  -h, display this help information

Client mode commands:
  -c [ct|expect], commit external cache to conntrack table
  --strict, with -c: exit status 1 also if single entries can't be committed
  -f [internal|external], flush internal and external cache
  -F [ct|expect], flush kernel conntrack table
  -i [ct|expect], display content of the internal cache
  -e [ct|expect], display the content of the external cache
  -k, kill conntrack daemon
  -s  [network|cache|runtime|link|rsqueue|queue|ct|expect], dump statistics
  -s  metrics, dump statistics in Prometheus' text format
  -s  helpers, dump statistics of user-space helpers
  -R [ct|expect], resync with kernel conntrack table
  -n, request resync with other node (only FT-FW and NOTRACK modes)
  -B, force a bulk send to other replica firewalls
  -x, dump cache in XML format (requires -i or -e)
  -o json, dump cache or statistics in JSON format (requires -i, -e or -s)
  --top, show statistics and their rates again and again (with --json as JSON)
  -t, reset the kernel timeout (see PurgeTimeout clause)
  --reload, have the daemon read its configuration file again

`
}

// versionText is what -v prints. The number of conntrack-tools comes first, where
// scripts look for it.
const versionText = `Connection tracking userspace daemon v` + version.ConntrackTools + `, ctbox v` + version.Number + `. Licensed under MIT.
Replication protocol version 1.
`
