// Command packaging makes packages from binaries that are already built: deb, rpm, apk and ipk
// (with nfpm), a tarball, an OCI image layout and an SBOM, for each architecture. All times are
// SOURCE_DATE_EPOCH, so that two runs with the same binaries write the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ctbox/internal/version"
)

// target is an architecture with its names in different places.
type target struct {
	name    string // of the binary, ctbox-NAME, and of Go
	nfpm    string // "" if no distribution with deb, rpm or apk has it
	openwrt []string
	image   *platform // nil for an architecture without containers
}

// targets have the architectures of OpenWrt's package feeds that each binary runs on; another
// of the same CPU is one more name.
var targets = []target{
	{"amd64", "amd64", []string{"x86_64"}, &platform{Architecture: "amd64", OS: "linux"}},
	{"arm64", "arm64", []string{"aarch64_generic", "aarch64_cortex-a53"}, &platform{Architecture: "arm64", OS: "linux"}},
	{"armv7", "arm7", []string{"arm_cortex-a7_neon-vfpv4"}, &platform{Architecture: "arm", OS: "linux", Variant: "v7"}},
	{"mips-softfloat", "", []string{"mips_24kc"}, nil},
	{"mipsle-softfloat", "", []string{"mipsel_24kc"}, nil},
}

type job struct {
	root  string // of the source tree
	cross string // has the binaries
	nfpm  string
	out   string
	epoch time.Time
}

func main() {
	var j job
	flag.StringVar(&j.root, "root", ".", "the source tree")
	flag.StringVar(&j.cross, "cross", "bin/cross", "the directory with ctbox-ARCHITECTURE")
	flag.StringVar(&j.nfpm, "nfpm", "", "nfpm's path")
	flag.StringVar(&j.out, "out", "bin/packages", "the directory that is written")
	flag.Parse()
	if err := j.run(); err != nil {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

func (j *job) run() error {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	j.epoch = time.Unix(seconds, 0).UTC()
	if err := os.RemoveAll(j.out); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(j.out, "openwrt"), 0o755); err != nil {
		return err
	}
	var images []descriptor
	for _, t := range targets {
		binary := filepath.Join(j.cross, "ctbox-"+t.name)
		if t.nfpm != "" {
			for _, format := range formats {
				out := fmt.Sprintf("ctbox_%s_%s.%s", version.Number, t.name, format.name)
				if err := j.pack(t.nfpm, format, binary, out); err != nil {
					return fmt.Errorf("%s for %s: %w", format.name, t.name, err)
				}
			}
		}
		for _, arch := range t.openwrt {
			for _, format := range openwrtFormats {
				out := fmt.Sprintf("openwrt/ctbox_%s-r1_%s.%s", version.Number, arch, format.name)
				if err := j.pack(arch, format, binary, out); err != nil {
					return fmt.Errorf("OpenWrt's %s for %s: %w", format.name, arch, err)
				}
			}
		}
		if err := j.tarball(t, binary); err != nil {
			return fmt.Errorf("tarball for %s: %w", t.name, err)
		}
		if err := j.sbom(t, binary); err != nil {
			return fmt.Errorf("SBOM for %s: %w", t.name, err)
		}
		if t.image == nil {
			continue
		}
		image, err := j.image(t, binary)
		if err != nil {
			return fmt.Errorf("image for %s: %w", t.name, err)
		}
		images = append(images, image)
	}
	return j.index(images)
}
