package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// file is a file or symbolic link of a package.
type file struct {
	path   string
	link   string
	data   []byte
	mode   os.FileMode
	config bool // a configuration file, which upgrades do not overwrite
	// netAdmin gives the program CAP_NET_ADMIN, for every user (in an archive only).
	netAdmin bool
}

// format is a kind of package, with the conventions of its distributions.
type format struct {
	name    string   // the end of the file's name, and nfpm's name of the kind
	zsh     string   // the directory of zsh's completions; "" for a package without completions
	man     bool     // has manuals, compressed
	systemd string   // the directory of units; "" for a package without units
	init    string   // the init script, in scripts/packaging
	logs    bool     // has a file for logrotate
	instead []string // the distribution's packages that this one replaces
	as      string   // suffix of such a name that provides that version of it
	needs   []string // the distribution's packages that this one depends on
	wants   []string // and those that it recommends
	release string   // suffix of the version
}

var formats = []format{
	{name: "deb", release: "1", zsh: "/usr/share/zsh/vendor-completions", man: true, systemd: "/lib/systemd/system", logs: true,
		instead: []string{"conntrack", "conntrackd", "nfct"}, as: " (= 1:1.4.9)"},
	{name: "rpm", release: "1", zsh: "/usr/share/zsh/site-functions", man: true, systemd: "/usr/lib/systemd/system", logs: true,
		instead: []string{"conntrack-tools"}, as: " = 1.4.9"},
	{name: "apk", release: "1", zsh: "/usr/share/zsh/site-functions", man: true, init: "conntrackd.openrc", logs: true,
		instead: []string{"conntrack-tools", "conntrack-tools-openrc"}, as: "=1.4.9"},
}

// OpenWrt has the kernel's modules in packages. Its builds for small flash have no
// kmod-nfnetlink-cttimeout, so nothing may depend on that.
var (
	openwrtModules = []string{"kmod-nf-conntrack-netlink", "kmod-nfnetlink-queue", "kmod-nfnetlink-cthelper"}
	openwrtMaybe   = []string{"kmod-nfnetlink-cttimeout"}
)

// openwrtFormats are ipk, for opkg, and apk, which replaces opkg after OpenWrt 24.10. Both
// name release 1 of the package r1.
var openwrtFormats = []format{
	{name: "ipk", init: "conntrackd.procd", release: "r1", instead: []string{"conntrack", "conntrackd", "nfct"},
		needs: openwrtModules, wants: openwrtMaybe},
	{name: "apk", init: "conntrackd.procd", release: "1", instead: []string{"conntrack", "conntrackd", "nfct"}, as: "=1.4.9",
		needs: openwrtModules},
}

// whole is the tarball: all files, for people who build their own package.
var whole = format{name: "tar.gz", zsh: "/usr/share/zsh/site-functions", man: true, systemd: "/usr/lib/systemd/system", logs: true}

var applets = []string{"conntrack", "conntrackd", "nfct"}

// files returns the files of a package of the format.
func (j *job) files(f format, binary string) ([]file, error) {
	var all []file
	var failed error
	add := func(to, from string, mode os.FileMode, config bool) {
		data, err := os.ReadFile(from)
		if err != nil {
			failed = err
		}
		all = append(all, file{path: to, data: data, mode: mode, config: config})
	}
	each := func(pattern string, do func(from, base string)) {
		found, err := filepath.Glob(filepath.Join(j.root, pattern))
		if err != nil {
			failed = err
		}
		for _, from := range found {
			do(from, filepath.Base(from))
		}
	}
	add("/usr/sbin/ctbox", binary, 0o755, false)
	for _, applet := range applets {
		all = append(all, file{path: "/usr/sbin/" + applet, link: "ctbox"})
	}
	// Only a package that replaces a running daemon starts it. The initial configuration
	// is the harmless mode: statistics.
	add("/etc/conntrackd/conntrackd.conf", filepath.Join(j.root, "scripts/conntrackd/stats.conf"), 0o644, true)
	each("scripts/conntrackd/*.conf", func(from, base string) { add("/etc/conntrackd/examples/"+base, from, 0o644, true) })
	if f.logs {
		add("/etc/logrotate.d/conntrackd", filepath.Join(j.root, "scripts/packaging/logrotate"), 0o644, true)
	}
	if f.init != "" {
		add("/etc/init.d/conntrackd", filepath.Join(j.root, "scripts/packaging", f.init), 0o755, true)
	}
	if f.systemd != "" {
		add(f.systemd+"/conntrackd.service", filepath.Join(j.root, "scripts/conntrackd.service"), 0o644, false)
	}
	if f.man {
		each("docs/man/*.[58]", func(from, base string) {
			add("/usr/share/man/man"+path.Ext(base)[1:]+"/"+base+".gz", from, 0o644, false)
			last := &all[len(all)-1]
			last.data = compress(last.data)
		})
	}
	if f.zsh != "" {
		add("/usr/lib/tmpfiles.d/ctbox.conf", filepath.Join(j.root, "scripts/tmpfiles.conf"), 0o644, false)
		each("scripts/completion/*.bash", func(from, base string) {
			add("/usr/share/bash-completion/completions/"+strings.TrimSuffix(base, ".bash"), from, 0o644, false)
		})
		each("scripts/completion/_*", func(from, base string) { add(f.zsh+"/"+base, from, 0o644, false) })
		each("scripts/completion/*.fish", func(from, base string) { add("/usr/share/fish/vendor_completions.d/"+base, from, 0o644, false) })
		add(docDir+"copyright", filepath.Join(j.root, "LICENSE"), 0o644, false)
		add(docDir+"examples/keepalived.conf", filepath.Join(j.root, "scripts/keepalived.conf"), 0o644, false)
		add(docDir+"examples/primary-backup.sh", filepath.Join(j.root, "scripts/primary-backup.sh"), 0o755, false)
		each("scripts/monitoring/*", func(from, base string) { add(docDir+"examples/monitoring/"+base, from, 0o644, false) })
		for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
			each(pattern, func(from, _ string) {
				to, _ := filepath.Rel(j.root, from) // cannot fail: both are absolute or both relative
				add(docDir+to, from, 0o644, false)
				last := &all[len(all)-1]
				last.data = asInstalled(last.data, f)
			})
		}
		each("docs/pictures/*.svg", func(from, base string) { add(docDir+"docs/pictures/"+base, from, 0o644, false) })
	}
	return all, failed
}

// docDir is the directory of a package's documents. They are in the same folders as in the source
// tree, so that their links are valid.
const docDir = "/usr/share/doc/ctbox/"

// asInstalled returns a page with the source tree's paths replaced by the package's.
func asInstalled(page []byte, f format) []byte {
	return []byte(strings.NewReplacer(
		"](LICENSE)", "](copyright)",
		"scripts/conntrackd.service", f.systemd+"/conntrackd.service",
		"scripts/conntrackd/", "/etc/conntrackd/examples/",
		"scripts/tmpfiles.conf", "/usr/lib/tmpfiles.d/ctbox.conf",
		"scripts/keepalived.conf", docDir+"examples/keepalived.conf",
		"scripts/primary-backup.sh", docDir+"examples/primary-backup.sh",
		"scripts/monitoring/", docDir+"examples/monitoring/",
	).Replace(string(page)))
}

// compress compresses like gzip -9n.
func compress(data []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression) // a valid level: cannot fail
	w.Write(data)
	w.Close()
	return out.Bytes()
}
