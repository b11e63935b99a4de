package nfct

import (
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// Policies and defaults are those of the namespace of --netns.
func TestNetNS(t *testing.T) {
	here, there := netnstest.New(t, "here"), netnstest.New(t, "there")
	applet := netnstest.Applet(t, "nfct")
	for _, line := range []string{
		"add timeout p inet udp replied 7 --netns NS", "--netns=NS default-set timeout inet tcp established 77",
	} {
		if r := here.Run("", applet, strings.Fields(strings.ReplaceAll(line, "NS", there.Name))...); r.Code != 0 || r.Stderr != "" {
			t.Errorf("%s: %+v", line, r)
		}
	}
	for _, line := range []string{"list timeout", "get timeout p -o json", "default-get timeout inet tcp"} {
		words := strings.Fields(line)
		inside := there.Run("", applet, words...)
		if r := here.Run("", applet, append(words, "--netns", there.Path())...); r != inside || r.Code != 0 || !strings.Contains(r.Stdout, "7") {
			t.Errorf("%s: %+v, inside %+v", line, r, inside)
		}
	}
	if r := here.Run("", applet, "list", "timeout"); r.Stdout != "" {
		t.Errorf("the own namespace has %s", r.Stdout)
	}
	if r := here.Run("", applet, "flush", "timeout", "--netns", "nowhere"); r.Code != 1 ||
		r.Stderr != prefix+"--netns nowhere: no network namespace of that name in /run/netns\n" {
		t.Errorf("a namespace that does not exist: %+v", r)
	}
}
