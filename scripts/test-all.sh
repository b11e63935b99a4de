#!/bin/bash
# Runs all tests for `make test-all` and CI: every Makefile target with tests. It stops at
# the first target that fails and prints its name, so that you can run it alone. Nothing is
# skipped, except `make test` with --tested. Needs root and Debian; takes about half an hour on two cores.
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
# CI has run them already.
[ "${1-}" = --tested ] || run "all tests" make test LONG=yes
run "the older peer" make test-peer
run "torture, short" make torture TORTURETIME=1m
# The virtual machine has one processor, and its tests wait most of the time, so all that
# follows runs beside it, with lower priority: if the virtual machine got no CPU for seconds,
# flows and expectations in it would expire.
vmlog=$(mktemp)
{ make test-vm && make test-vm-short; } >"$vmlog" 2>&1 &
background=$!
run "race detector" nice make race
run "codecs on other architectures" nice make emulated
run "the kernel seen by a 32-bit program" nice make test-386
run "cross builds" nice make cross
# The tests run the seeds only; fuzzing searches for new failures. A failure is printed with
# its input, which belongs in the corpus together with the fix.
run "10 s of each fuzz target" nice make fuzz FUZZTIME=10s FUZZJOBS=6
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
