#!/bin/sh
# usage: scripts/sizes.sh
#
# Prints the table of sizes in docs/size.md: each build raw, as xz and in a squashfs
# image with xz, as on routers, for three architectures. Needs xz-utils and
# squashfs-tools.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

size() {
	du -b "$1" | cut -f1
}

# row NAME FILE...: the sizes of files together
row() {
	name=$1
	shift
	rm -rf "$dir/root"
	mkdir "$dir/root"
	cp -L "$@" "$dir/root"
	raw=$(cat "$dir/root"/* | wc -c)
	# shellcheck disable=SC2086 # lists of options
	packed=$(cat "$dir/root"/* | xz $filter --lzma2=preset=9 | wc -c)
	# shellcheck disable=SC2086
	mksquashfs "$dir/root" "$dir/image" -noappend -quiet -no-progress -all-root -comp xz -b 256K ${filter:+-Xbcj ${filter#--}} >/dev/null
	printf '| %s | %s | %s | %s |\n' "$name" "$raw" "$packed" "$(size "$dir/image")"
}

make=${MAKE:-make}
echo '| | bytes | xz | squashfs, xz |'
echo '|---|---:|---:|---:|'
for machine in amd64 arm64 mipsle; do
	filter=
	[ $machine != amd64 ] || filter=--x86
	export GOOS=linux GOARCH=$machine GOMIPS=softfloat
	$make -s BIN="$dir/bin" WITHOUT='' minimal
	row "$machine, everything" "$dir/bin/minimal/ctbox"
	$make -s BIN="$dir/bin" WITHOUT=box minimal
	row "$machine, without \`box\`" "$dir/bin/minimal/ctbox"
	$make -s BIN="$dir/bin" minimal
	row "$machine, \`make minimal\`" "$dir/bin/minimal/ctbox"
done
filter=--x86
if [ -x /usr/sbin/conntrackd ]; then
	set -- /usr/sbin/conntrack /usr/sbin/conntrackd /usr/sbin/nfct
	own=$(for program in "$@"; do ldd "$program"; done |
		sed -n 's/.*=> \([^ ]*\(libnetfilter\|libnfnetlink\|libmnl\)[^ ]*\).*/\1/p' | sort -u)
	row "conntrack-tools of this machine, with its own libraries" "$@" $own
	all=$(for program in "$@"; do ldd "$program"; done | sed -n 's/.*=> \([^ ]*\).*/\1/p' | sort -u)
	row "conntrack-tools of this machine, with all libraries" "$@" $all
fi
