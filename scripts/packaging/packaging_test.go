//go:build packages

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makePackages runs `make packages` in the tree at root, into a directory of its
// own, which it returns.
func makePackages(t *testing.T, root string) string {
	t.Helper()
	bin := t.TempDir()
	if err := os.Mkdir(filepath.Join(bin, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	nfpm := os.Getenv("NFPM")
	if err := os.Symlink(nfpm, filepath.Join(bin, "tools", filepath.Base(nfpm))); err != nil {
		t.Fatalf("NFPM, which make test-packages sets: %v", err)
	}
	run(t, "env", "SOURCE_DATE_EPOCH=1700000000", "make", "-s", "-C", root, "BIN="+bin, "packages")
	return filepath.Join(bin, "packages")
}

// sums are the files below dir.
func sums(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	all := make(map[string][sha256.Size]byte)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = sha256.Sum256(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// inside runs a script in a root directory of its own, in namespaces of its own.
func inside(t *testing.T, root, script string) string {
	t.Helper()
	out := run(t, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec",
		`mkdir -p "$1/proc"; mount -t proc proc "$1/proc"; exec chroot "$1" /bin/sh -exc "$2"`, "sh", root, script)
	t.Logf("%s", out)
	return out
}

// bare is inside for a root without a shell: one program.
func bare(t *testing.T, root string, args ...string) string {
	t.Helper()
	out := run(t, "unshare", append([]string{"--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec",
		`root=$1; shift; mkdir -p "$root/proc"; mount -t proc proc "$root/proc"; exec chroot "$root" "$@"`, "sh", root}, args...)...)
	t.Logf("# %s\n%s", strings.Join(args, " "), out)
	return out
}

// debian unpacks Debian with its own conntrack, conntrackd and nfct, and with systemd. It is
// made once, and kept in the user's cache.
func debian(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cache, "ctbox", "bookworm-with-conntrack-tools-and-systemd.tar")
	root := filepath.Join(t.TempDir(), "debian")
	if _, err := os.Stat(kept); err != nil {
		run(t, "debootstrap", "--variant=minbase", "--include=conntrack,conntrackd,nfct,systemd", "bookworm", root)
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "tar", "-C", root, "-cf", kept+".new", ".")
		if err := os.Rename(kept+".new", kept); err != nil {
			t.Fatal(err)
		}
		return root
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-C", root, "-xf", kept)
	return root
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestPackages(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	made := makePackages(t, root)

	t.Run("reproducible", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "another", "place")
		if err := os.MkdirAll(copied, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "sh", "-ec", `tar -C "$1" --exclude=./.git --exclude=./bin -cf - . | tar -C "$2" -xf -`, "sh", root, copied)
		first, second := sums(t, made), sums(t, makePackages(t, copied))
		if len(first) < len(targets)*(len(openwrtFormats)+2)+3*len(formats) || len(first) != len(second) {
			t.Errorf("%d artefacts, then %d", len(first), len(second))
		}
		for name, sum := range first {
			if second[name] != sum {
				t.Errorf("%s is another one the second time", name)
			}
		}
	})
	t.Run("deb", func(t *testing.T) { testDeb(t, filepath.Join(made, "ctbox_0.1.0_amd64.deb")) })
	t.Run("OpenWrt", func(t *testing.T) { testOpenWrt(t, root, filepath.Join(made, "openwrt")) })
	t.Run("image", func(t *testing.T) {
		for _, t2 := range targets {
			if t2.image == nil {
				continue
			}
			dir := unpackImage(t, filepath.Join(made, "oci"), *t2.image)
			wantMachine(t, filepath.Join(dir, "usr/sbin/ctbox"), filepath.Join(made, "..", "cross", "ctbox-"+t2.name))
			if t2.name == "amd64" {
				testTree(t, dir)
			}
		}
	})
	t.Run("containerd", func(t *testing.T) { testContainerd(t, root, made) })
	t.Run("others", func(t *testing.T) {
		if got := run(t, "rpm", "-qp", "--provides", "--requires", "--conflicts", filepath.Join(made, "ctbox_0.1.0_amd64.rpm")); !strings.Contains(got, "conntrack-tools") {
			t.Errorf("the rpm: %s", got)
		}
		for _, t2 := range targets {
			list := run(t, "tar", "-tzf", filepath.Join(made, "ctbox-0.1.0-"+t2.name+".tar.gz"))
			if !strings.Contains(list, "/usr/sbin/conntrackd\n") {
				t.Errorf("the tarball for %s:\n%s", t2.name, list)
			}
		}
	})
	t.Run("sbom", func(t *testing.T) {
		var bom struct {
			Components []struct{ Name, Version string }
		}
		data, err := os.ReadFile(filepath.Join(made, "ctbox_0.1.0_amd64.cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &bom); err != nil {
			t.Fatal(err)
		}
		info, err := buildinfo.ReadFile(filepath.Join(made, "..", "cross", "ctbox-amd64"))
		if err != nil {
			t.Fatal(err)
		}
		if len(bom.Components) != len(info.Deps)+1 {
			t.Errorf("%d components of %d modules and the standard library", len(bom.Components), len(info.Deps))
		}
	})
}

// testTree runs what is in an unpacked root, where there is nothing else.
func testTree(t *testing.T, root string) {
	t.Helper()
	if got := bare(t, root, "/usr/sbin/conntrack", "-L"); !strings.Contains(got, "conntrack v1.4.9 (conntrack-tools): 0 flow entries have been shown.") {
		t.Errorf("conntrack -L: %s", got)
	}
	if got := bare(t, root, "/usr/sbin/conntrackd", "-v"); !strings.Contains(got, "v1.4.9, ctbox v") {
		t.Errorf("conntrackd -v: %s", got)
	}
	if got := bare(t, root, "/usr/sbin/nfct", "list", "timeout"); got != "" {
		t.Errorf("nfct list timeout: %s", got)
	}
}

func testDeb(t *testing.T, deb string) {
	root := debian(t)
	run(t, "cp", deb, filepath.Join(root, "ctbox.deb"))
	inside(t, root, `
dpkg -S /usr/sbin/conntrack /usr/sbin/conntrackd /usr/sbin/nfct
conntrack --version
echo '# of the administrator' >>/etc/conntrackd/conntrackd.conf
cp /etc/conntrackd/conntrackd.conf /before
DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Options::=--force-confold install /ctbox.deb
for name in conntrack conntrackd nfct; do
	[ "$(dpkg -S /usr/sbin/$name)" = "ctbox: /usr/sbin/$name" ]
	if dpkg-query -W -f '${Status}\n' $name | grep ' installed$'; then exit 1; fi
done
conntrack --version | grep ctbox
conntrack -L 2>&1 | grep '^conntrack v1.4.9 (conntrack-tools): 0 flow entries have been shown'
cmp /before /etc/conntrackd/conntrackd.conf
dpkg --audit
dpkg -L ctbox | while read -r path; do [ -d "$path" ] || echo "$path"; done >/files
apt-get -qy remove ctbox
dpkg-query -W -f '${Conffiles}\n' ctbox | sed 's/^ *//; s/ .*//; /^$/d' | sort >/conffiles
while read -r path; do if [ -e "$path" ] || [ -L "$path" ]; then echo "$path"; fi; done </files | sort >/left
cmp /conffiles /left
cmp /before /etc/conntrackd/conntrackd.conf
apt-get -qy purge ctbox conntrackd
while read -r path; do if [ -e "$path" ] || [ -L "$path" ]; then echo "left: $path"; exit 1; fi; done </files
[ ! -e /etc/conntrackd ] || { ls -R /etc/conntrackd; exit 1; }
`)
}

// wantMachine fails unless the program is the one at want, whose machine is in its header.
func wantMachine(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, wanted) {
		t.Errorf("%s is not %s", path, want)
	}
}

// testOpenWrt looks into the packages for OpenWrt: Debian has neither opkg nor apk.
func testOpenWrt(t *testing.T, root, dir string) {
	feed, err := os.ReadFile(filepath.Join(root, "scripts/packaging/openwrt/Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range slices.Concat(openwrtModules, openwrtMaybe) {
		if !bytes.Contains(feed, []byte(module)) {
			t.Errorf("the feed's Makefile does not depend on %s", module)
		}
	}
	var names []string
	for _, t2 := range targets {
		cross := filepath.Join(dir, "..", "..", "cross", "ctbox-"+t2.name)
		for _, arch := range t2.openwrt {
			name := "ctbox_0.1.0-r1_" + arch
			names = append(names, name+".apk", name+".ipk")
			unpacked := t.TempDir()
			run(t, "tar", "-C", unpacked, "-xzf", filepath.Join(dir, name+".ipk"))
			run(t, "tar", "-C", unpacked, "-xzf", filepath.Join(unpacked, "data.tar.gz"))
			wantMachine(t, filepath.Join(unpacked, "usr/sbin/ctbox"), cross)
			if !exists(filepath.Join(unpacked, "etc/init.d/conntrackd")) {
				t.Errorf("%s.ipk has no init script", name)
			}
			control := run(t, "tar", "-xOzf", filepath.Join(unpacked, "control.tar.gz"), "./control")
			for _, want := range []string{"Version: 0.1.0-r1", "Architecture: " + arch, "Provides: conntrack, conntrackd, nfct", "Conflicts: conntrack, conntrackd, nfct",
				"Depends: " + strings.Join(openwrtModules, ", "), "Recommends: " + strings.Join(openwrtMaybe, ", ")} {
				if !strings.Contains(control, want+"\n") {
					t.Errorf("%s.ipk: control has no %q:\n%s", name, want, control)
				}
			}
			if t2.name == "amd64" {
				testTree(t, unpacked)
			}

			unpacked = t.TempDir()
			run(t, "tar", "-C", unpacked, "--warning=no-unknown-keyword", "-xzf", filepath.Join(dir, name+".apk"))
			wantMachine(t, filepath.Join(unpacked, "usr/sbin/ctbox"), cross)
			info, err := os.ReadFile(filepath.Join(unpacked, ".PKGINFO"))
			if err != nil {
				t.Fatal(err)
			}
			wants := []string{"pkgver = 0.1.0-r1", "arch = " + arch, "provides = conntrack=1.4.9"}
			for _, module := range openwrtModules {
				wants = append(wants, "depend = "+module)
			}
			for _, want := range wants {
				if !strings.Contains(string(info), want+"\n") {
					t.Errorf("%s.apk: .PKGINFO has no %q:\n%s", name, want, info)
				}
			}
			for line := range strings.Lines(string(info)) {
				if !strings.Contains(line, " = ") && !strings.HasPrefix(line, "#") {
					t.Errorf("%s.apk: .PKGINFO has the line %q", name, line)
				}
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, entry := range entries {
		have = append(have, entry.Name())
	}
	slices.Sort(names)
	if !slices.Equal(have, names) {
		t.Errorf("packages for OpenWrt: %q, want %q", have, names)
	}
}

// containerd runs the daemon with files of its own, then the commands that follow.
// User 65532 gets the program from the file system that containerd made of the image. The
// runtime's own specification, with the capability in the bounding set alone, is what a
// process has whose container began with another program.
const containerd = `
mount -t tmpfs tmpfs /run
cat >config.toml <<END
version = 2
root = "$PWD/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
END
containerd -c config.toml >log 2>&1 &
export CONTAINERD_SNAPSHOTTER=native HOME=$PWD
mkdir -p .config/containers
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >.config/containers/policy.json
until ctr version >version 2>&1; do kill -0 $! || { cat log; exit 1; }; sleep 0.1; done
COMMANDS
image=localhost/ctbox:0.1.0
ctr -n k8s.io images ls name==$image | grep 'linux/amd64.*linux/arm64'
ctr -n k8s.io run --rm --net-host $image entrypoint | grep 'ctbox COMMAND'
ctr -n k8s.io run --rm --net-host --cap-add CAP_NET_ADMIN $image root /usr/sbin/ctbox conntrack -C
mkdir rootfs
ctr -n k8s.io images mount --rw $image rootfs
runc spec
user() {
	jq --argjson privileges "$1" '.process.terminal = false | .process.user = {uid: 65532, gid: 65532} |
		.process.args = ["/usr/sbin/ctbox", "conntrack", "-C"] | .process.noNewPrivileges = $privileges |
		.process.capabilities = {bounding: ["CAP_NET_ADMIN"]} | .linux.namespaces |= map(select(.type != "network"))' config.json >new
	mv new config.json
	runc --root $PWD/runc run user
}
user false
if user true; then exit 1; fi
umount rootfs
`

// testContainerd imports the image into containerd and copies it with skopeo, by the
// commands of the page about Kubernetes, and runs it.
func testContainerd(t *testing.T, root, packages string) {
	page, err := os.ReadFile(filepath.Join(root, "docs/quickstart-kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, part := range strings.Split(string(page), "<!-- not run: make test-packages runs it -->\n```sh\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		commands = append(commands, block)
	}
	if len(commands) != 2 {
		t.Fatalf("%d blocks of the page are for this test, want 2", len(commands))
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(packages, filepath.Join(dir, "bin", "packages")); err != nil {
		t.Fatal(err)
	}
	const registry = "docker://registry.example.org/ctbox:0.1.0"
	all := strings.Join(commands, "")
	if strings.Count(all, registry) != 1 {
		t.Fatalf("the page's commands do not copy to %s", registry)
	}
	script := strings.Replace(containerd, "COMMANDS", strings.Replace(all, registry, "dir:$PWD/registry", 1), 1)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-exc", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("%v\n%s", err, log)
	}
	if n := bytes.Count(out, []byte("\n0\n")); n != 2 {
		t.Errorf("conntrack -C printed 0 %d times, want as root and as another user", n)
	}
	if !bytes.Contains(out, []byte("sorry, you must be root or get CAP_NET_ADMIN capability to do this")) {
		t.Error("without new privileges another user had the capability")
	}
	// The registry has the images of all platforms.
	blobs, err := os.ReadDir(filepath.Join(dir, "registry"))
	if err != nil || len(blobs) < 9 {
		t.Errorf("skopeo copied %d files (%v)", len(blobs), err)
	}
}

// probe is a package with a unit and an init script, both of which leave a file if they are
// started, and what debhelper has a package do with them when it is installed.
var probe = map[string]string{
	"DEBIAN/control": "Package: probe\nVersion: 1\nArchitecture: all\nMaintainer: ctbox <ctbox@example.org>\nDescription: probe\n",
	"DEBIAN/postinst": `#!/bin/sh -e
deb-systemd-helper unmask probe-unit.service >/dev/null
deb-systemd-helper enable probe-unit.service >/dev/null
[ ! -d /run/systemd/system ] || deb-systemd-invoke start probe-unit.service
update-rc.d probe-script defaults >/dev/null
invoke-rc.d --skip-systemd-native probe-script start
`,
	"lib/systemd/system/probe-unit.service": "[Service]\nExecStart=touch /started\n[Install]\nWantedBy=multi-user.target\n",
	"etc/init.d/probe-script": `#!/bin/sh
### BEGIN INIT INFO
# Provides: probe-script
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
touch /started
`,
	"usr/bin/probe": "#!/bin/sh\n",
}

// What the tests install starts nothing, now or at the next boot.
func TestNeed(t *testing.T) {
	root := debian(t)
	archive := filepath.Join(root, "archive")
	tree := filepath.Join(t.TempDir(), "probe")
	for name, text := range probe {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o755)
		if strings.HasSuffix(name, ".service") {
			mode = 0o644
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(archive, 0o755); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(archive, "probe.deb")
	run(t, "dpkg-deb", "--root-owner-group", "--build", tree, deb)
	data, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	need, err := os.ReadFile(filepath.Join("..", "need"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"archive/Packages":     fmt.Sprintf("%sFilename: ./probe.deb\nSize: %d\nSHA256: %s\n", probe["DEBIAN/control"], len(data), digest(data)),
		"etc/apt/sources.list": "deb [trusted=yes] file:/archive ./\n",
		"need":                 string(need),
		"debian-packages":      "probe probe test\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inside(t, root, `
rm -f /usr/sbin/policy-rc.d
# As on a machine that has booted: invoke-rc.d starts nothing without an init and a runlevel.
ln -sf /bin/true /sbin/init
printf '#!/bin/sh\necho N 2\n' >/sbin/runlevel
chmod 755 /sbin/runlevel
apt-get -q update
apt-get -qy install probe
[ -e /started ]
systemctl is-enabled probe-unit.service
ls /etc/rc2.d/S*probe-script
apt-get -qy purge probe
update-rc.d probe-script remove
DPKG_MAINTSCRIPT_PACKAGE=probe deb-systemd-helper purge probe-unit.service
rm -f /started /etc/systemd/system/multi-user.target.wants/probe-unit.service
# With need it neither is started nor will be.
/need test
probe
[ ! -e /started ]
[ ! -e /usr/sbin/policy-rc.d ]
if systemctl is-enabled probe-unit.service; then exit 1; fi
if ls /etc/rc2.d/S*probe-script; then exit 1; fi
`)
}

// unpackImage follows the layout from its index to the layer for the platform, checks
// every digest on the way, and unpacks the layer.
func unpackImage(t *testing.T, layout string, on platform) string {
	t.Helper()
	type manifest struct {
		Manifests, Layers []descriptor
	}
	read := func(d descriptor) []byte {
		t.Helper()
		sum := strings.TrimPrefix(d.Digest, "sha256:")
		data, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", sum))
		if err != nil {
			t.Fatal(err)
		}
		if digest(data) != sum || len(data) != d.Size {
			t.Errorf("blob %s has digest %s and %d bytes, not %d", sum, digest(data), len(data), d.Size)
		}
		return data
	}
	parse := func(data []byte) (m manifest) {
		t.Helper()
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	top, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	index := parse(read(parse(top).Manifests[0]))
	at := slices.IndexFunc(index.Manifests, func(d descriptor) bool { return *d.Platform == on })
	if at < 0 {
		t.Fatalf("index has nothing for %+v: %+v", on, index)
	}
	layer := read(parse(read(index.Manifests[at])).Layers[0])
	unpacked, err := gzip.NewReader(strings.NewReader(string(layer)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(unpacked); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, fs.FileMode(h.Mode))
			}
			if capability := h.PAXRecords["SCHILY.xattr.security.capability"]; err == nil && capability != "" {
				err = unix.Setxattr(path, "security.capability", []byte(capability), 0)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
