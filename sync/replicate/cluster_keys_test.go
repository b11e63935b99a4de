//go:build !no_cluster

package replicate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/conf"
	"ctbox/sync/seal"
)

// keyFile writes a key file and returns its path.
func keyFile(t testing.TB, contents string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(contents), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// newKey returns the contents of a key file.
func newKey(t testing.TB, b byte) string {
	t.Helper()
	text, err := seal.GenerateKey(strings.NewReader(strings.Repeat(string(rune(b)), seal.KeyLen)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestReadKeys(t *testing.T) {
	uid := os.Geteuid()
	good := keyFile(t, newKey(t, 'a'), 0o600)
	c := &conf.Cluster{Name: "edge"}
	s := &conf.Sync{Cluster: c}
	if keys, err := ReadKeys(s, uid); err != nil || keys.ring == nil {
		t.Errorf("without keys: %v", err)
	}
	c.Keys, c.Send = []conf.ClusterKey{{Number: 7, File: good}, {Number: 255, File: keyFile(t, newKey(t, 'b'), 0o400)}}, 255
	if keys, err := ReadKeys(s, uid); err != nil || keys.ring == nil {
		t.Errorf("two keys: %v", err)
	}
	for name, bad := range map[string]struct{ file, says string }{
		"missing":       {good + "none", "no such file or directory"},
		"mode":          {keyFile(t, newKey(t, 'c'), 0o640), "group and others must have no access"},
		"contents":      {keyFile(t, "hello\n", 0o600), "a key is 32 bytes in base64"},
		"zeroes":        {keyFile(t, newKey(t, 0), 0o600), "the key is all zeroes"},
		"documentation": {keyFile(t, seal.ExampleKey+"\n", 0o600), "the key of the documentation's examples"},
		"folder":        {t.TempDir(), "it is not a file"},
	} {
		c.Keys[0].File = bad.file
		keys, err := ReadKeys(s, uid)
		if keys.ring != nil || err == nil || !strings.HasPrefix(err.Error(), "key 7: ") || !strings.Contains(err.Error(), bad.file) ||
			!strings.Contains(err.Error(), bad.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.Keys[0].File = good
	if _, err := ReadKeys(s, uid); err != nil {
		t.Error(err)
	}
	for _, s := range []*conf.Sync{nil, {}} {
		if keys, err := ReadKeys(s, uid); err != nil || keys.ring != nil {
			t.Errorf("without a Cluster: %v", err)
		}
	}
}
