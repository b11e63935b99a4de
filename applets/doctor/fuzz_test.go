package doctor

import "testing"

// FuzzRules holds that nothing the kernel could send makes the readers of rules
// and chains fall over.
func FuzzRules(f *testing.F) {
	f.Add([]byte("\x14\x00\x04\x80\x10\x00\x01\x80\x07\x00\x01\x00ct\x00\x00"))
	f.Add([]byte("\x0c\x00\x04\x80\x08\x00\x01\x00\x00\x00\x00\x01\x06\x00\x01\x00t\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		tracks(b)
		inputChain(b)
	})
}
