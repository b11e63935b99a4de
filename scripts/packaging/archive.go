package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ctbox/internal/version"
)

// archive returns a tar file of files, sorted by path, with their directories.
func archive(prefix string, files []file, at time.Time) []byte {
	made := map[string]bool{".": true}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var mkdir func(dir string)
	mkdir = func(dir string) {
		if !made[dir] {
			made[dir] = true
			mkdir(path.Dir(dir))
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: at})
		}
	}
	for _, f := range slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.path, b.path) }) {
		name := path.Join(prefix, strings.TrimPrefix(f.path, "/"))
		if strings.HasSuffix(f.path, "/") {
			mkdir(name)
			continue
		}
		mkdir(path.Dir(name))
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: at}
		if f.netAdmin {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": netAdminFile}
		}
		if f.link != "" {
			h = tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: f.link, Mode: 0o777, ModTime: at}
		}
		w.WriteHeader(&h) // into memory: cannot fail
		w.Write(f.data)
	}
	w.Close()
	return out.Bytes()
}

func (j *job) tarball(t target, binary string) error {
	files, err := j.files(whole, binary)
	if err != nil {
		return err
	}
	name := "ctbox-" + version.Number + "-" + t.name
	return os.WriteFile(filepath.Join(j.out, name+".tar.gz"), compress(archive(name, files, j.epoch)), 0o644)
}

// The types of the OCI image specification, as far as they are needed.
type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

type descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    string    `json:"digest"`
	Size      int       `json:"size"`
	Platform  *platform `json:"platform,omitempty"`
}

const oci = "application/vnd.oci.image."

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// blob writes data into the layout.
func (j *job) blob(mediaType string, data []byte) (descriptor, error) {
	dir := filepath.Join(j.out, "oci", "blobs", "sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return descriptor{}, err
	}
	d := digest(data)
	return descriptor{MediaType: oci + mediaType, Digest: "sha256:" + d, Size: len(data)},
		os.WriteFile(filepath.Join(dir, d), data, 0o644)
}

func (j *job) blobOf(mediaType string, value any) (descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return j.blob(mediaType, data)
}

// netAdminFile is the kernel's struct vfs_cap_data (linux/capability.h), revision 2: the
// program may have CAP_NET_ADMIN, bit 12, which ctbox makes effective itself. With the
// flag for that, containers without the capability could not start it.
const netAdminFile = "\x00\x00\x00\x02" + "\x00\x10\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// image writes an image that contains only ctbox and the directories that the daemon needs.
func (j *job) image(t target, binary string) (descriptor, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return descriptor{}, err
	}
	files := []file{{path: "/usr/sbin/ctbox", data: data, mode: 0o755, netAdmin: true}}
	for _, applet := range applets {
		files = append(files, file{path: "/usr/sbin/" + applet, link: "ctbox"})
	}
	for _, dir := range []string{"/etc/conntrackd/", "/proc/", "/run/", "/tmp/", "/var/lock/", "/var/log/", "/var/run/"} {
		files = append(files, file{path: dir})
	}
	layer := archive("", files, j.epoch)
	packed, err := j.blob("layer.v1.tar+gzip", compress(layer))
	if err != nil {
		return descriptor{}, err
	}
	config, err := j.blobOf("config.v1+json", object{
		"created": j.epoch, "architecture": t.image.Architecture, "os": t.image.OS, "variant": t.image.Variant,
		"config":  object{"Entrypoint": []string{"/usr/sbin/ctbox"}, "Cmd": []string{"--help"}, "Env": []string{"PATH=/usr/sbin"}},
		"rootfs":  object{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		"history": []object{{"created": j.epoch, "created_by": "ctbox " + version.Number}},
	})
	if err != nil {
		return descriptor{}, err
	}
	manifest, err := j.blobOf("manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []descriptor{packed},
		"annotations": object{"org.opencontainers.image.title": "ctbox", "org.opencontainers.image.version": version.Number,
			"org.opencontainers.image.licenses": "MIT"},
	})
	manifest.Platform = t.image
	return manifest, err
}

// index completes the layout with one tag for the images of all platforms.
func (j *job) index(images []descriptor) error {
	list, err := j.blobOf("index.v1+json", object{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": images})
	if err != nil {
		return err
	}
	top, err := json.Marshal(object{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []object{{
		"mediaType": list.MediaType, "digest": list.Digest, "size": list.Size,
		// The second is the full name, for containerd.
		"annotations": object{"org.opencontainers.image.ref.name": version.Number,
			"io.containerd.image.name": "localhost/ctbox:" + version.Number},
	}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(j.out, "oci", "index.json"), top, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(j.out, "oci", "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// sbom writes the modules that the binary was built from, as CycloneDX 1.5.
func (j *job) sbom(t target, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	components := []object{{"type": "library", "name": "std", "version": info.GoVersion, "bom-ref": "std",
		"purl": "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		components = append(components, object{"type": "library", "name": m.Path, "version": m.Version, "purl": purl, "bom-ref": purl,
			"properties": []object{{"name": "go.sum", "value": m.Sum}}})
	}
	text, err := json.MarshalIndent(object{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"metadata": object{"timestamp": j.epoch, "component": object{"type": "application", "name": "ctbox", "version": version.Number,
			"bom-ref": "ctbox", "licenses": []object{{"license": object{"id": "MIT"}}},
			"hashes": []object{{"alg": "SHA-256", "content": digest(data)}}}},
		"components": components,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(j.out, "ctbox_"+version.Number+"_"+t.name+".cdx.json"), append(text, '\n'), 0o644)
}
