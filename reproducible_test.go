//go:build long

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Two copies of the tree in folders with different names, the second with an empty build cache
// so that every package is compiled again, give the same binary.
func TestBuildIsReproducible(t *testing.T) {
	root := moduleRoot(t)
	var binaries [2][]byte
	for i, copied := range []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "another", "place")} {
		copyTree(t, root, copied)
		var env []string
		if i == 1 {
			env = append(env, "GOCACHE="+t.TempDir())
		}
		data, err := os.ReadFile(build(t, copied, env...))
		if err != nil {
			t.Fatal(err)
		}
		binaries[i] = data
	}
	if !bytes.Equal(binaries[0], binaries[1]) {
		t.Errorf("two builds of one tree differ (%d and %d bytes)", len(binaries[0]), len(binaries[1]))
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	sources(t, from, func(path string) {
		rel, err := filepath.Rel(from, path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, data, info.Mode()); err != nil {
			t.Fatal(err)
		}
	})
}
