package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// licences are the licences that are compatible with ctbox's and require only their own text,
// each by one of its phrases.
var licences = []struct{ name, phrase string }{
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"BSD", "Redistribution and use in source and binary forms, with or without"},
	{"Apache-2.0", "Apache License Version 2.0, January 2004"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose"},
}

// Everything in the binary has such a licence, by the files of the modules and of Go.
func TestLicences(t *testing.T) {
	list := output(t, "go", "list", "-deps", "-tags", "urfave_cli_no_docs", "-f", "{{with .Module}}{{if not .Main}}{{.Dir}}{{end}}{{end}}", ".")
	dirs := append(strings.Fields(list), strings.TrimSpace(output(t, "go", "env", "GOROOT")), moduleRoot(t))
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if name := licence(t, dir); name == "" {
			t.Errorf("%s has no licence that is known here", dir)
		} else {
			t.Logf("%s: %s", filepath.Base(dir), name)
		}
	}
}

// licence returns the name of the licence in a module's directory, or "" if the directory has
// none, or more than one.
func licence(t *testing.T, dir string) (found string) {
	t.Helper()
	var files []string
	for _, pattern := range []string{"LICEN[SC]E*", "COPYING*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, names...)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Join(strings.Fields(string(text)), " ")
		i := slices.IndexFunc(licences, func(l struct{ name, phrase string }) bool { return strings.Contains(words, l.phrase) })
		if i < 0 {
			return ""
		}
		found = licences[i].name
	}
	return found
}

// A licence that is not on the list is detected.
func TestOtherLicences(t *testing.T) {
	for text, want := range map[string]string{
		"GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007":                    "",
		"All rights reserved.":                                                  "",
		"Apache License\n   Version 2.0, January 2004":                          "Apache-2.0",
		"Redistribution and use in source and\nbinary forms, with or without x": "BSD",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := licence(t, dir); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
		if err := os.WriteFile(filepath.Join(dir, "COPYING"), []byte("another"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := licence(t, dir); got != "" {
			t.Errorf("with another one %q is %q", text, got)
		}
	}
	if got := licence(t, t.TempDir()); got != "" {
		t.Errorf("no file is %q", got)
	}
}
