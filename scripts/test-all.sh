#!/bin/bash
# Runs all tests, which `make test-all` and CI do: every target of the Makefile that has
# some. It stops at the first one that fails and says which one that was; that target can
# be run alone. Nothing is skipped. As root, on Debian; about half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

step= background=
finish() {
	local status=$?
	[ -z "$background" ] || kill "$background" 2>/dev/null || :
	if [ $status -ne 0 ]; then
		echo "make test-all: FAILED in '$step' (status $status, after ${SECONDS}s)"
	fi
}
trap finish EXIT

run() {
	step=$1
	shift
	local start=$SECONDS
	echo
	echo "=== $step: $*"
	"$@"
	echo "=== $step: done in $((SECONDS - start))s"
}

# The tests include the fuzz targets' seeds and the checks of the binary's dependencies,
# size and reproducibility.
run "all tests" make test-long
run "the older peer" make test-peer
run "torture, short" make torture TORTURETIME=1m
run "race detector" make race
# The virtual machine has one processor, and its tests wait most of the time. Beside them
# goes what only computes, and it comes second: in a machine that is starved for seconds
# what has a time to live has ended.
vmlog=$(mktemp)
{ make test-vm && make test-vm-short; } >"$vmlog" 2>&1 &
background=$!
run "codecs on other architectures" nice make emulated
run "the kernel seen by a 32-bit program" make test-386
run "cross builds" nice make cross
# The seeds are a part of the tests; this finds more. What it finds is printed with
# its input and belongs in the corpus with the fix, whatever change is at hand.
run "20 s of each fuzz target" nice make fuzz FUZZTIME=20s FUZZJOBS=6
vm() { # what it printed, and whether it passed
	local status=0
	wait "$background" || status=$?
	background=
	cat "$vmlog"
	rm -f "$vmlog"
	return $status
}
run "make test-vm, test-vm-short" vm
run "packages, installed and removed" make test-packages
