#!/bin/sh
# usage: scripts/fuzz.sh [PACKAGE...]
#
# Fuzzes every fuzz target of the packages (all of them by default) for
# $FUZZTIME each, 20s unless set, $JOBS of them at a time. What it finds is printed,
# and lands in the package's testdata/fuzz, to be committed with the fix; the other
# targets have their time all the same, and the exit status is not 0 then.
# Inputs are made shorter a few times only: by default that may take a minute for
# each, all the time there is.
set -eu
[ $# -gt 0 ] || set -- ./...
: "${GO:=go}" "${TAGS:=}" "${FUZZTIME:=20s}" "${JOBS:=1}"
export GO TAGS FUZZTIME

for package in $("$GO" list -tags "$TAGS" "$@"); do
	for target in $("$GO" test -tags "$TAGS" -list '^Fuzz' "$package" | grep '^Fuzz' || :); do
		echo "$package $target"
	done
done | xargs -P "$JOBS" -n 2 sh -c '
	log=$(mktemp)
	trap "rm -f $log" EXIT
	status=0
	"$GO" test -tags "$TAGS" -run "^\$" -fuzz "^$2\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x -parallel 1 "$1" >"$log" 2>&1 || status=$?
	input=$(sed -n "s/^ *Failing input written to //p" "$log")
	# Before Go 1.27 the end of the time can be taken for a failure (go.dev/issue/75804):
	# there is no input then, and nothing else is said.
	if [ -z "$input" ] && [ "$(sed -n "/^--- FAIL/{n;p;}" "$log")" = "    context deadline exceeded" ]; then
		status=0
	fi
	if [ $status -eq 0 ]; then
		echo "$1 $2: $(sed -n "s/.*\(execs: [0-9]*\).*/\1/p" "$log" | tail -n 1)"
	else
		echo "$1 $2: FAILED"
		cat "$log"
		[ -z "$input" ] || { echo "$input:"; cat "$("$GO" list -f "{{.Dir}}" "$1")/$input"; }
		exit 1
	fi' fuzz
