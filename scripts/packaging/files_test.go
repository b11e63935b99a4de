package main

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The documents of a package are whole: what they link to is in it, and the files
// that they name are at the paths that the package installs.
func TestPackagedDocuments(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)|<img[^>]* src="([^":]+)"`)
	named := regexp.MustCompile("[` |](/(?:etc/conntrackd/examples|usr/share/doc|lib/systemd|usr/lib/systemd)/[A-Za-z0-9./_-]+)")
	source := regexp.MustCompile(`scripts/(conntrackd|monitoring|keepalived\.conf|primary-backup\.sh|conntrackd\.service)`)
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
