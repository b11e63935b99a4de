// Command pictures draws the pictures of the documents, docs/pictures/*.svg, from checked-in
// data: the table of docs/benchmarks.md, Grafana's dashboard, and the records of real runs in
// data/, which record.sh makes. `make pictures` runs it; its test fails if a checked-in picture
// differs.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// pictures returns the pictures by file name. root is the root of the source tree.
var pictures = []struct {
	name string
	draw func(root string) (*svg, error)
}{
	{"pair", drawPair},
	{"flow", drawFlow},
	{"benchmarks", drawBenchmarks},
	{"soak", drawSoak},
	{"top", drawTop},
	{"failover", drawFailover},
	{"dashboard", drawDashboard},
}

func main() {
	root := flag.String("root", ".", "the source tree")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	dir := filepath.Join(root, "docs", "pictures")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range pictures {
		s, err := p.draw(root)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, p.name+".svg"), s.bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// record returns the path of a record in data/.
func record(root, name string) string {
	return filepath.Join(root, "scripts", "pictures", "data", name)
}
