package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ctbox/internal/version"
)

type object = map[string]any

// pack makes the package at out, below j.out, with nfpm. nfpm's configuration is YAML, of which
// JSON is a subset. arch is the distribution's or nfpm's name of the architecture.
func (j *job) pack(arch string, f format, binary, out string) error {
	files, err := j.files(f, binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "packaging")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var contents []object
	for i, file := range files {
		info := object{"mtime": j.epoch, "owner": "root", "group": "root", "mode": file.mode}
		if file.link != "" {
			contents = append(contents, object{"src": file.link, "dst": file.path, "type": "symlink", "file_info": object{"mtime": j.epoch}})
			continue
		}
		src := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(src, file.data, 0o644); err != nil {
			return err
		}
		content := object{"src": src, "dst": file.path, "file_info": info}
		if file.config {
			content["type"] = "config|noreplace"
		}
		contents = append(contents, content)
	}
	var provides []string
	for _, name := range f.instead {
		provides = append(provides, name+f.as)
	}
	config := object{
		"name": "ctbox", "arch": arch, "platform": "linux", "version": version.Number, "release": f.release,
		"section": "net", "priority": "optional", "license": "MIT", "mtime": j.epoch,
		"maintainer":  "ctbox <ctbox@example.org>",
		"description": "connection tracking tools in one static binary\nconntrack, conntrackd and nfct, in the place of conntrack-tools.",
		"contents":    contents, "disable_globbing": true,
		"provides": provides, "conflicts": f.instead, "replaces": f.instead,
		"depends": f.needs, "recommends": f.wants,
		"rpm": object{"buildhost": "localhost", "group": "System/Networking"},
	}
	if f.name == "apk" { // its description is one line
		config["description"], _, _ = strings.Cut(config["description"].(string), "\n")
	}
	scripts := object{}
	for key, name := range map[string]string{"postinstall": "postinst", "preremove": "prerm", "postremove": "postrm"} {
		script := filepath.Join(j.root, "scripts", "packaging", f.name+"."+name)
		if _, err := os.Stat(script); err == nil {
			scripts[key], err = filepath.Abs(script)
			if err != nil {
				return err
			}
		}
	}
	config["scripts"] = scripts
	data, err := json.MarshalIndent(config, "", " ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, "nfpm.yaml")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return err
	}
	cmd := exec.Command(j.nfpm, "package", "-f", name, "-p", f.name, "-t", filepath.Join(j.out, out))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}
