package nearest

import "testing"

func TestWord(t *testing.T) {
	states := []string{"SYN_SENT", "SYN_RECV", "ESTABLISHED", "CLOSE", "CLOSE_WAIT"}
	for word, want := range map[string]string{
		"ESTABLISED": "ESTABLISHED", "established": "ESTABLISHED", "SYN_SNET": "SYN_SENT", "CLOSED": "CLOSE", "CLOSE": "CLOSE",
		"": "", "OPEN": "", "X": "", "LISTENING": "",
	} {
		if got := Word(word, states); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := Word("x", nil); got != "" {
		t.Errorf("of no candidates: %q", got)
	}
}
