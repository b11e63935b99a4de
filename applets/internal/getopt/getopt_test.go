package getopt

import (
	"errors"
	"strings"
	"testing"
)

const (
	codeA = iota
	codeB
	codeC
	codeSource
	codeSourceNAT
	codeMark
	codeLate
)

var testSet = New([]Option{
	{Short: 'a', Code: codeA},
	{Short: 'b', Kind: Required, Code: codeB},
	{Short: 'c', Kind: Optional, Code: codeC},
	{Short: '(', Kind: Required, Code: codeB},
	{Long: "alpha", Code: codeA},
	{Long: "beta", Kind: Required, Code: codeB},
	{Long: "gamma", Kind: Optional, Code: codeC},
	{Long: "src", Kind: Required, Code: codeSource},
	{Long: "src-nat", Kind: Optional, Code: codeSourceNAT},
	{Long: "orig-src", Kind: Required, Code: codeSource},
	{Long: "orig-source", Kind: Required, Code: codeSource},
	{Long: "orig-dst", Kind: Required, Code: codeMark},
})

var lateSet = New([]Option{
	{Long: "late", Kind: Required, Code: codeLate},
	{Long: "srcport", Kind: Required, Code: codeLate},
})

var names = map[int]string{codeA: "a", codeB: "b", codeC: "c", codeSource: "src", codeSourceNAT: "nat", codeMark: "mark", codeLate: "late"}

// words are the words that are no options, once Next has returned End.
func words(s *Scanner) []string { return s.args[min(s.next, len(s.args)):] }

// scan writes a scan down as "a b=1 | words".
func scan(argv []string, posix bool) string {
	var s Scanner
	s.Start(testSet, argv, posix)
	var out []string
	for {
		m, err := s.Next()
		if err != nil {
			return strings.Join(append(out, "! "+err.Error()), " ")
		}
		if m.Code == End {
			return strings.Join(append(append(out, "|"), words(&s)...), " ")
		}
		text := names[m.Code]
		if m.HasArg {
			text += "=" + m.Arg
		}
		out = append(out, text)
		if m.Code == codeB && m.Arg == "late" {
			s.Add(lateSet)
		}
	}
}

func TestScanner(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"", "|"},
		{"-a", "a |"},
		{"-a x -b 1 y", "a b=1 | x y"},
		{"x -a y z -b 1 w", "a b=1 | x y z w"},
		{"-ab 1", "a b=1 |"},
		{"-ab1", "a b=1 |"},
		{"-b -a", "b=-a |"},
		{"-b -- -a", "b=-- a |"},
		{"-c 1", "c | 1"},
		{"-c1 2", "c=1 | 2"},
		{"-ac", "a c |"},
		{"-(4", "b=4 |"},
		{"-", "| -"},
		{"- -a", "a | -"},
		{"-a -- -a x", "a | -a x"},
		{"x -- -a", "| x -a"},
		{"--alpha --beta 1 --beta=2 --beta= x", "a b=1 b=2 b= | x"},
		{"--gamma x --gamma=1 --gamma=", "c c=1 c= | x"},
		{"--al --b 1 --g=1", "a b=1 c=1 |"},
		{"--src 1 --src-n", "src=1 nat |"},
		{"--orig-s 1", "src=1 |"},
		{"--late 1", "! unknown option `--late'"},
		{"-b late --late 1 --lat 2", "b=late late=1 late=2 |"},
		{"-b late --srcp 1", "b=late late=1 |"},
		{"-b late -b late --late 1", "b=late b=late late=1 |"},
		{"--sr 1", "! unknown option `--sr'"},
		{"--orig 1", "! unknown option `--orig'"},
		{"--alpha=1", "! unknown option `--alpha=1'"},
		{"--=1", "! unknown option `--=1'"},
		{"--nix", "! unknown option `--nix'"},
		{"x --nix y", "! unknown option `--nix'"},
		{"-x", "! unknown option `-x'"},
		{"-:", "! unknown option `-:'"},
		{"-ax", "a ! unknown option `-ax'"},
		{"-axa", "a ! unknown option `prog'"},
		{"y -axa", "a ! unknown option `y'"},
		{"-a y -axa", "a a ! unknown option `y'"},
		{"-b", "! option `-b' requires an argument"},
		{"-ab", "a ! option `-ab' requires an argument"},
		{"x -b", "! option `-b' requires an argument"},
		{"--beta", "! option `--beta' requires an argument"},
		{"--b", "! option `--b' requires an argument"},
	} {
		argv := append([]string{"prog"}, strings.Fields(c.line)...)
		if got := scan(argv, false); got != c.want {
			t.Errorf("%q: %s, want %s", c.line, got, c.want)
		}
	}
}

func TestScannerPosix(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"x -a", "| x -a"},
		{"-a x -a", "a | x -a"},
		{"-a -b 1 - -a", "a b=1 | - -a"},
		{"-a -- x -a", "a | x -a"},
	} {
		argv := append([]string{"prog"}, strings.Fields(c.line)...)
		if got := scan(argv, true); got != c.want {
			t.Errorf("%q: %s, want %s", c.line, got, c.want)
		}
	}
}

func TestOperand(t *testing.T) {
	var s Scanner
	s.Start(testSet, []string{"prog", "x", "-a", "1", "y", "-ab", "2"}, false)
	if m, err := s.Next(); err != nil || m.Code != codeA {
		t.Fatalf("first option: %v, %v", m, err)
	}
	word, ok := s.Operand()
	if !ok || word != "1" {
		t.Fatalf("operand %q, %v", word, ok)
	}
	s.Take()
	if m, err := s.Next(); err != nil || m.Code != codeA {
		t.Fatalf("second option: %v, %v", m, err)
	}
	if word, ok = s.Operand(); !ok || word != "-ab" {
		t.Fatalf("operand inside a bundle %q, %v", word, ok)
	}
	if m, err := s.Next(); err != nil || m.Code != codeB || m.Arg != "2" {
		t.Fatalf("third option: %v, %v", m, err)
	}
	if word, ok = s.Operand(); ok {
		t.Fatalf("operand at the end: %q", word)
	}
	if m, err := s.Next(); err != nil || m.Code != End {
		t.Fatalf("end: %v, %v", m, err)
	}
	if got := strings.Join(words(&s), " "); got != "x y" {
		t.Fatalf("words %q", got)
	}
}

func TestScannerWithoutArguments(t *testing.T) {
	var s Scanner
	s.Start(testSet, nil, false)
	if m, err := s.Next(); err != nil || m.Code != End || len(words(&s)) != 0 {
		t.Fatalf("%v, %v, %q", m, err, words(&s))
	}
}

func TestScannerLeavesArgvAlone(t *testing.T) {
	argv := []string{"prog", "x", "-a", "y", "-b", "1"}
	scan(argv, false)
	if got := strings.Join(argv, " "); got != "prog x -a y -b 1" {
		t.Fatal(got)
	}
}

func TestScannerAllocatesNothing(t *testing.T) {
	argv := strings.Fields("prog x -a --orig-src 1 -b2 --gamma=3 y")
	var s Scanner
	n := testing.AllocsPerRun(100, func() {
		s.Start(testSet, argv, false)
		for {
			m, err := s.Next()
			if err != nil {
				t.Fatal(err)
			}
			if m.Code == End {
				return
			}
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// An added option is found by its abbreviations only where they abbreviate no other one.
func TestAddedOptions(t *testing.T) {
	set := New([]Option{
		{Long: "nat-range", Kind: Required, Code: 1}, {Long: "mark", Code: 2}, {Long: "mask", Code: 3},
		{Long: "netns", Kind: Required, Code: 4, Added: true}, {Long: "match", Code: 5, Added: true},
		{Long: "all", Code: 6, Added: true}, {Long: "also", Code: 7, Added: true},
	})
	for name, want := range map[string]int{
		"n": 1, "na": 1, "ne": 4, "net": 4, "netns": 4, "m": 0, "ma": 0, "mat": 5, "mar": 2, "a": 0, "al": 0, "all": 6, "als": 7, "match": 5, "x": 0,
	} {
		var s Scanner
		s.Start(set, []string{"prog", "--" + name, "x"}, false)
		m, err := s.Next()
		if err != nil {
			m.Code = 0
		}
		if m.Code != want {
			t.Errorf("--%s is option %d, want %d", name, m.Code, want)
		}
	}
}

// FuzzScanner checks that every element ends up somewhere: as an option, an
// argument or a word, whatever the order.
func FuzzScanner(f *testing.F) {
	for _, line := range []string{"", "-a x -b 1", "x\x00--\x00-a", "-c1\x00-", "--src\x00--\x00y", "-axa"} {
		f.Add(strings.ReplaceAll(line, " ", "\x00"), false)
		f.Add(line, true)
	}
	f.Fuzz(func(t *testing.T, line string, posix bool) {
		argv := append([]string{"prog"}, strings.Split(line, "\x00")...)
		var s Scanner
		s.Start(testSet, argv, posix)
		for range 2 * (len(line) + 2) {
			m, err := s.Next()
			var bad *Error
			if err != nil {
				if !errors.As(err, &bad) {
					t.Fatalf("error %T", err)
				}
				return
			}
			if m.Code != End {
				continue
			}
			for _, w := range words(&s) {
				if !strings.Contains(line, w) {
					t.Fatalf("word %q is not from the line", w)
				}
			}
			return
		}
		t.Fatal("the scan does not end")
	})
}
