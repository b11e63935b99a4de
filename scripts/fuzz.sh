#!/bin/sh
# usage: scripts/fuzz.sh [PACKAGE...]
#
# Runs every fuzz target of the packages (all packages by default) for $FUZZTIME each
# (default 20s), $JOBS at a time. A failing input is printed and saved in the package's
# testdata/fuzz, to be committed with the fix. The remaining targets still run, and the
# exit status is not 0.
# Inputs are minimized a few times only: Go's default of a minute per input would use
# up all the time.
set -eu
[ $# -gt 0 ] || set -- ./...
: "${GO:=go}" "${TAGS:=}" "${FUZZTIME:=20s}" "${JOBS:=1}"
export GO TAGS FUZZTIME

# The targets are read from the source, since `go test -list` would link every package's tests.
files=$("$GO" list -tags "$TAGS" -f '{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}
{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}}/{{.}}
{{end}}' "$@")
echo "$files" | while read -r package file; do
	[ -z "$file" ] || sed -n "s|^func \\(Fuzz[A-Za-z0-9_]*\\)(.*|$package \\1|p" "$file"
done | xargs -r -P "$JOBS" -n 2 sh -c '
	log=$(mktemp)
	trap "rm -f $log" EXIT
	status=0
	"$GO" test -vet=off -tags "$TAGS" -run "^\$" -fuzz "^$2\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 10x -parallel 1 "$1" >"$log" 2>&1 || status=$?
	input=$(sed -n "s/^ *Failing input written to //p" "$log")
	# Before Go 1.27 the end of the fuzz time can count as a failure (go.dev/issue/75804):
	# then there is no input and no other message.
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
