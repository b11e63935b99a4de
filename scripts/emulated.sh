#!/bin/sh
# usage: scripts/emulated.sh GOARCH
#
# Runs the tests of pure code (codecs, parsers, formatting) as a program of another
# architecture under qemu-user. Netlink headers are in host byte order and most of
# their payload is big-endian, so byte-order errors show on a big-endian machine.
#
# qemu-user has no netfilter sockets. Tests in files that use netnstest or newHost need the real
# kernel, so they run on the machine's own architecture only. So do the two packages
# that build the program, and packages that have no other tests.
set -eu
: "${GO:=go}" "${TAGS:=}"
arch=$1
module=$("$GO" list -m)

# The tag emulated has the simulations run a few of their seeds (internal/seeds). With
# -trimpath, `make cross` and this script share what they compile.
packages=$("$GO" list -tags "$TAGS" \
	-f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}={{.Dir}}{{end}}' ./...)

for entry in $packages; do
	package=${entry%%=*} dir=${entry#*=}
	case $package in
	"$module" | "$module/internal/netnstest") continue ;;
	"$module/docs" | "$module/applets/conntrackd/sandbox" | "$module/sync/interop") continue ;; # they start programs
	"$module/scripts/"*) continue ;; # they run on the machine that builds
	esac
	kernel= rest=
	for file in "$dir"/*_test.go; do
		tests=$(sed -n 's/^func \(\(Test\|Fuzz\)[A-Za-z0-9_]*\)(.*/\1/p' "$file" | grep -vx TestMain | tr '\n' '|')
		if grep -q "netnstest\|newHost(" "$file"; then kernel=$kernel$tests; else rest=$rest$tests; fi
	done
	[ -n "$rest" ] || continue
	echo "^(${kernel}none)\$ $package"
done | GOARCH=$arch xargs -r -P 2 -n 2 "$GO" test -count=1 -vet=off -trimpath -tags "$TAGS,emulated" -exec "qemu-$arch" -skip
