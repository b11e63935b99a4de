//go:build packages

package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

// debian unpacks Debian with its own conntrack, conntrackd and nfct. It is made
// once, and kept in the user's cache.
func debian(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cache, "ctbox", "bookworm-with-conntrack-tools.tar")
	root := filepath.Join(t.TempDir(), "debian")
	if _, err := os.Stat(kept); err != nil {
		run(t, "debootstrap", "--variant=minbase", "--include=conntrack,conntrackd,nfct", "bookworm", root)
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
		if len(first) < len(targets)*(len(formats)+2) || len(first) != len(second) {
			t.Errorf("%d artefacts, then %d", len(first), len(second))
		}
		for name, sum := range first {
			if second[name] != sum {
				t.Errorf("%s is another one the second time", name)
			}
		}
	})
	t.Run("deb", func(t *testing.T) { testDeb(t, filepath.Join(made, "ctbox_0.1.0_amd64.deb")) })
	t.Run("ipk", func(t *testing.T) {
		dir := t.TempDir()
		run(t, "tar", "-C", dir, "-xzf", filepath.Join(made, "ctbox_0.1.0_amd64.ipk"))
		run(t, "tar", "-C", dir, "-xzf", filepath.Join(dir, "data.tar.gz"))
		control := run(t, "tar", "-xOzf", filepath.Join(dir, "control.tar.gz"), "./control")
		for _, want := range []string{"Architecture: x86_64", "Provides: conntrack"} {
			if !strings.Contains(control, want) {
				t.Errorf("control has no %q:\n%s", want, control)
			}
		}
		testTree(t, dir)
		if !exists(filepath.Join(dir, "etc/init.d/conntrackd")) {
			t.Error("no init script")
		}
	})
	t.Run("image", func(t *testing.T) { testTree(t, unpackImage(t, filepath.Join(made, "oci"))) })
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

// unpackImage follows the layout from its index to the layer for amd64, checks
// every digest on the way, and unpacks the layer.
func unpackImage(t *testing.T, layout string) string {
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
	if len(index.Manifests) != len(targets) || index.Manifests[0].Platform.Architecture != "amd64" {
		t.Fatalf("index: %+v", index)
	}
	layer := read(parse(read(index.Manifests[0])).Layers[0])
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
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
