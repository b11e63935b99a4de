#!/bin/sh
# usage: scripts/fuzz.sh [PACKAGE...]
#
# Fuzzes every fuzz target of the packages (all of them by default) for
# $FUZZTIME each, 20s unless set. What it finds lands in the package's
# testdata/fuzz, to be committed with the fix.
set -eu
[ $# -gt 0 ] || set -- ./...
: "${GO:=go}" "${TAGS:=}" "${FUZZTIME:=20s}"

for package in $("$GO" list -tags "$TAGS" "$@"); do
	for target in $("$GO" test -tags "$TAGS" -list '^Fuzz' "$package" | grep '^Fuzz' || :); do
		echo "== $package $target"
		"$GO" test -tags "$TAGS" -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$package"
	done
done
