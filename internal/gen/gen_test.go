package gen

import "testing"

func TestReplace(t *testing.T) {
	for _, c := range []struct{ page, want string }{
		{"a\n<!-- generated: x -->\nold\n<!-- end of x -->\nb\n", "a\n<!-- generated: x -->\nnew\n<!-- end of x -->\nb\n"},
		{".\\\" generated: x\n.\\\" end of x\n", ".\\\" generated: x\nnew\n.\\\" end of x\n"},
		{"<!-- generated: x -->\nold\n", ""},
		{"<!-- generated: xy -->\nold\n<!-- end of xy -->\n", ""},
	} {
		got, err := replace(c.page, "x", "new\n")
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: %q, %v", c.page, got, err)
		}
	}
}

func TestNames(t *testing.T) {
	for want, names := range map[string][]string{
		"none": nil, "`a`": {"a"}, "`a` and `b`": {"a", "b"}, "`a`, `b` and `c`": {"a", "b", "c"},
	} {
		if got := Names(names); got != want {
			t.Errorf("%q: %s, want %s", names, got, want)
		}
	}
}
