package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/version"
)

// The documents of a package are whole: what they link to is in it, and the files
// that they name are at the paths that the package installs.
func TestPackagedDocuments(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)|<img[^>]* src="([^":]+)"`)
	named := regexp.MustCompile("[` |](/(?:etc/conntrackd/examples|usr/share/doc|lib/systemd|usr/lib/systemd|usr/lib/tmpfiles[.]d)/[A-Za-z0-9./_-]+)")
	source := regexp.MustCompile(`scripts/(conntrackd|monitoring|keepalived\.conf|primary-backup\.sh|conntrackd\.service|tmpfiles\.conf)`)
	for _, f := range append(slices.Concat(formats, openwrtFormats), whole) {
		files, err := (&job{root: "../.."}).files(f, "/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		has := map[string]bool{}
		for _, file := range files {
			for name := file.path; name != "/"; name = path.Dir(name) {
				has[name] = true
			}
		}
		pages, names := 0, 0
		for _, file := range files {
			if !strings.HasSuffix(file.path, ".md") {
				continue
			}
			pages++
			text := string(file.data)
			for _, m := range link.FindAllStringSubmatch(text, -1) {
				if to := path.Join(path.Dir(file.path), m[1]+m[3]); !has[to] {
					t.Errorf("%s: %s links to %s, which the package does not have", f.name, file.path, to)
				}
			}
			for _, m := range named.FindAllStringSubmatch(text, -1) {
				names++
				if to := strings.TrimRight(m[1], "/."); !has[to] {
					t.Errorf("%s: %s names %s, which the package does not have", f.name, file.path, to)
				}
			}
			if m := source.FindString(text); m != "" {
				t.Errorf("%s: %s names %s, a path of the source tree", f.name, file.path, m)
			}
		}
		if documented := f.zsh != ""; documented != (pages > 15) || documented != (names > 15) {
			t.Errorf("%s: %d pages that name %d paths", f.name, pages, names)
		}
	}
}

// openwrtBuild is as much of OpenWrt's build system as the feed's Makefile uses: its
// BuildPackage prints the package's fields and has a rule that installs it.
const openwrtBuild = `
INSTALL_DIR = install -d
INSTALL_BIN = install -m 755
INSTALL_CONF = install -m 600
LN = ln -sf
comma := ,
PKG_BUILD_DIR = $(SOURCE)
GO_PKG_BUILD_BIN_DIR = $(BUILT)
define GoBinPackage
endef
define BuildPackage
$(info TAGS:=$(GO_PKG_TAGS))
$(info VERSION:=$(PKG_VERSION))
$(info $(Package/$(1)))
test:
	mkdir -p $(ROOT)
$(call Package/$(1)/install,$(ROOT))
endef
`

// The Makefile for OpenWrt's feeds is evaluated by make for both builds, and installs
// what the ipk has.
func TestFeed(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	for name, text := range map[string]string{
		"rules.mk": openwrtBuild, "include/package.mk": "", "feeds/packages/lang/golang/golang-package.mk": "", "built/ctbox": "program",
	} {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tops, err := os.ReadFile(filepath.Join(source, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	without := regexp.MustCompile(`(?m)^WITHOUT +\?= (.*)$`).FindSubmatch(tops)
	tags := regexp.MustCompile(`(?m)^TAGS += (.*)$`).FindSubmatch(tops)
	if without == nil || tags == nil {
		t.Fatal("the Makefile has no WITHOUT or no TAGS")
	}
	minimal := string(tags[1])
	for part := range strings.FieldsSeq(string(without[1])) {
		minimal += ",no_" + part
	}
	build := func(config string) (fields string, installed map[string]bool) {
		t.Helper()
		root := filepath.Join(t.TempDir(), "root")
		cmd := exec.Command("make", "-s", "-f", filepath.Join(source, "scripts/packaging/openwrt/Makefile"), "test", "TOPDIR="+top,
			"INCLUDE_DIR="+filepath.Join(top, "include"), "SOURCE="+source, "BUILT="+filepath.Join(top, "built"), "ROOT="+root, "CONFIG_CTBOX_MINIMAL="+config)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("make: %v\n%s", err, out)
		}
		installed = map[string]bool{}
		err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				installed[strings.TrimPrefix(path, root)] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(out), installed
	}

	fields, installed := build("")
	for _, want := range []string{"TAGS:=" + string(tags[1]) + "\n", "VERSION:=" + version.Number + "\n", "CONFLICTS:=conntrack conntrackd nfct\n"} {
		if !strings.Contains(fields, want) {
			t.Errorf("the feed has no %q:\n%s", want, fields)
		}
	}
	for _, module := range slices.Concat(openwrtModules, openwrtMaybe) {
		if !regexp.MustCompile(`DEPENDS:=.*[+:]` + module + `\b`).MatchString(fields) {
			t.Errorf("the feed does not depend on %s:\n%s", module, fields)
		}
	}
	files, err := (&job{root: source}).files(openwrtFormats[0], "/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !installed[f.path] && !strings.HasPrefix(f.path, "/etc/conntrackd/examples/") {
			t.Errorf("the feed does not install %s", f.path)
		}
	}
	fields, installed = build("y")
	if !strings.Contains(fields, "TAGS:="+minimal+"\n") {
		t.Errorf("CTBOX_MINIMAL is not what make minimal leaves out, %s:\n%s", minimal, fields)
	}
	if len(installed) != 2 || !installed["/usr/sbin/ctbox"] || !installed["/usr/sbin/conntrack"] {
		t.Errorf("CTBOX_MINIMAL installs %v", installed)
	}
}
