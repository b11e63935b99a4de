package conntrackd

import (
	"os"
	"strings"
	"testing"

	"ctbox/sync/seal"

	"golang.org/x/sys/unix"
)

func TestGenKey(t *testing.T) {
	h := newHost(t)
	var keys [2]string
	for i := range keys {
		r := h.Run("", ours(t), "--genkey")
		if _, err := seal.ParseKey([]byte(r.Stdout)); err != nil || !strings.HasSuffix(r.Stdout, "\n") || r.Stderr != "" || r.Code != 0 {
			t.Errorf("%+v: %v", r, err)
		}
		keys[i] = r.Stdout
	}
	if keys[0] == keys[1] {
		t.Errorf("twice %s", keys[0])
	}
	if r := h.Run("", "sh", "-c", ours(t)+" --genkey >/dev/full"); r.Code != 1 || !strings.Contains(r.Stderr, "can't make a key: ") {
		t.Errorf("a full disk: %+v", r)
	}
}

// badKeys are contents of key files, and what is said about them.
var badKeys = map[string]string{
	"hello\n":                      "a key is 32 bytes in base64",
	strings.Repeat("A", 43) + "=":  "the key is all zeroes",
	seal.ExampleKey + "\n":         "it is the key of the documentation's examples",
	strings.Repeat("x\n", 1000000): "a key is 32 bytes in base64",
}

func TestCheckOfKeys(t *testing.T) {
	h := newHost(t)
	config := h.configure("", h.inCluster("Key 1 KEY1\nKey 2 KEY2\nSend 1\n", ""))
	check := func(status int, says string) {
		t.Helper()
		r := h.Run("", ours(t), "-C", config, "--check")
		if r.Code != status || !strings.Contains(r.Stderr, says) || says == "" && strings.Contains(r.Stderr, "Key") {
			t.Errorf("want status %d and %q: %+v", status, says, r)
		}
		if r := h.Run("", ours(t), "-C", config, "--check", "--syntax"); r.Code != 0 || strings.Contains(r.Stderr, "Key 2") {
			t.Errorf("--syntax: %+v", r)
		}
	}
	check(0, "")
	good, err := os.ReadFile(h.path("key1"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(contents string) {
		t.Helper()
		if err := os.WriteFile(h.path("key2"), []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for contents, says := range badKeys {
		write(contents)
		check(2, ": error: Key 2: "+h.path("key2")+": "+says)
	}
	write(string(good))
	check(0, ": warning: Key 2 is the same key as Key 1\n")
	if err := os.Chmod(h.path("key2"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(2, "its mode is 0644: group and others must have no access")
	if err := os.Chmod(h.path("key2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(h.path("key2"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	check(2, "it belongs to user 65534: it must belong to root or to the daemon's user")
	if err := os.Remove(h.path("key2")); err != nil {
		t.Fatal(err)
	}
	check(2, "Key 2: open "+h.path("key2")+": no such file or directory")

	config = h.configure("", h.inCluster("", ""))
	check(0, "warning: Cluster has no Key: flows cross the link in the clear")
	config = h.configure("", h.inCluster("Key 1 KEY1\nAllowPlain on\n", ""))
	check(0, "warning: AllowPlain on is for a migration only")
}

// A daemon with a bad key does not start, and one that runs, in its sandbox, keeps its
// configuration.
func TestKeysOfADaemon(t *testing.T) {
	h := newHost(t)
	config := h.configure("", h.inCluster("Key 1 "+h.path("none")+"\n", ""))
	if r := h.Run("", ours(t), "-C", config); r.Code != 1 || !strings.Contains(r.Stderr, "key 1: open "+h.path("none")+": no such file or directory\n") {
		t.Errorf("%+v", r)
	}
	one := h.inCluster("Key 1 KEY1\n", "")
	p := h.start(ours(t), h.configure("", one))
	checkConfined(t, p.Pid(), confinedTo(unix.CAP_NET_ADMIN))

	refused := func(says, rest string) {
		t.Helper()
		want := h.path("conntrackd.conf") + ": key " + says
		if r := h.reload("", rest); r.Code != 1 || !strings.HasPrefix(r.Stdout, want) || strings.Count(r.Stdout, "\n") != 1 {
			t.Errorf("--reload: %+v, want %s", r, want)
		}
	}
	both := h.inCluster("Key 1 KEY1\nKey 2 KEY2\nSend 2\n", "")
	if err := os.Rename(h.path("key2"), h.path("kept")); err != nil {
		t.Fatal(err)
	}
	refused("2: open "+h.path("key2")+": no such file or directory", both)
	for contents, says := range badKeys {
		if err := os.WriteFile(h.path("key2"), []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
		refused("2: "+h.path("key2")+": "+says, both)
	}
	if err := os.Rename(h.path("kept"), h.path("key2")); err != nil {
		t.Fatal(err)
	}
	h.reloads("Sync Cluster Key, Sync Cluster Send", "", both)

	// The files are read again, also when the configuration is the same.
	again := h.path("conntrackd.conf") + ", and its key files were read again\n"
	if r := h.reload("", both); r.Code != 0 || r.Stdout != "nothing has changed in "+again {
		t.Errorf("%+v", r)
	}
	if err := os.Chmod(h.path("key1"), 0o604); err != nil {
		t.Fatal(err)
	}
	refused("1: "+h.path("key1")+": its mode is 0604", both)
	stop(t, p)
}
