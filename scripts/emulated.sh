#!/bin/sh
# usage: scripts/emulated.sh GOARCH
#
# Runs the tests of everything that is computation alone (codecs, parsers,
# formatting) as a program of another architecture under qemu-user: netlink is
# in the machine's byte order and most of what it carries is big-endian, so an
# error in either shows on a machine of the other kind.
#
# qemu-user has no netfilter sockets. The tests of files that use netnstest need
# the real kernel, so they are left to the machine's own architecture, as are
# the two packages that build the program.
set -eu
: "${GO:=go}" "${TAGS:=}"
arch=$1
module=$("$GO" list -m)

packages=$("$GO" list -tags "$TAGS" \
	-f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}={{.Dir}}{{end}}' ./...)

for entry in $packages; do
	package=${entry%%=*} dir=${entry#*=}
	case $package in "$module" | "$module/internal/netnstest") continue ;; esac
	kernel=
	for file in $(grep -l netnstest "$dir"/*_test.go || :); do
		for test in $(sed -n 's/^func \(\(Test\|Fuzz\)[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
			kernel="$kernel|$test"
		done
	done
	GOARCH=$arch "$GO" test -count=1 -vet=off -tags "$TAGS" -exec "qemu-$arch" \
		-skip "^(-$kernel)\$" "$package"
done
