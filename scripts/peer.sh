#!/bin/sh
# usage: scripts/peer.sh [VERSION]
#
# Prints a directory with conntrack, conntrackd and nfct of conntrack-tools VERSION (1.4.9),
# with which the tests compare ours. Debian 12 has an older version, so the programs come
# from the suite that has this one, together with the libraries that they need. Nothing is
# installed.
#
# apt fetches them once, into $CTBOX_PEER_CACHE, else /var/cache/ctbox-peer: a directory
# that every user can read, since the tests run the programs as other users, too.
#
# Exit status: 1, with the reason on standard error, if the programs cannot be fetched.
set -eu

version=${1:-1.4.9}
cache=${CTBOX_PEER_CACHE:-/var/cache/ctbox-peer}

fail() {
	echo "peer.sh: $*" >&2
	exit 1
}

dir=$cache/$version
[ ! -e "$dir/complete" ] || { echo "$dir"; exit 0; }

cd "$(dirname "$0")"
. ./archive.sh
for tool in apt-get dpkg-deb flock patchelf; do
	command -v $tool >/dev/null || fail "$tool is missing (scripts/need test)"
done
umask 022
mkdir -p "$cache" || fail "cannot make $cache"

# Libraries of the three programs. libc is included, because theirs is newer than the machine's.
libraries='libc6 libmnl0 libnfnetlink0 libnetfilter-conntrack3 libnetfilter-cttimeout1
libnetfilter-cthelper0 libnetfilter-queue1 libsystemd0 libcap2 libgcc-s1'

# packaged PACKAGE prints the newest version of it that is conntrack-tools VERSION.
packaged() {
	# shellcheck disable=SC2086
	apt-cache $apt madison "$1" | tr -d ' ' | cut -d '|' -f 2 |
		grep -E "^([0-9]+:)?$(printf %s "$version" | sed 's/\./\\./g')-" | head -n 1
}

fetch() {
	rm -rf "$cache/new"
	mkdir "$cache/new"
	# Oldest suite first: it is likely to have the libraries that the programs were built with.
	for suite in trixie forky sid; do
		rm -rf "$cache/lists"
		suites "$cache/lists" $suite >>"$cache/log" 2>&1 || continue
		exact=$(packaged conntrack) || :
		[ -n "$exact" ] || continue
		(
			cd "$cache/new"
			# shellcheck disable=SC2086
			apt-get $apt download conntrack="$exact" conntrackd="$exact" nfct="$exact" $libraries
			for deb in *.deb; do dpkg-deb -x "$deb" root; done
			lib=$(dirname "$(find root -name libmnl.so.0)")
			loader=$(find root -name 'ld-linux*.so.*' | head -n 1)
			# The directory's final path, after the rename below.
			for program in conntrack conntrackd nfct; do
				cp root/usr/sbin/$program $program
				patchelf --set-interpreter "$dir/$loader" --force-rpath --set-rpath "$dir/$lib" $program
			done
			rm ./*.deb
			touch complete
		) >>"$cache/log" 2>&1 || return 1
		rm -rf "$cache/lists" "$dir"
		mv "$cache/new" "$dir"
		return 0
	done
	return 1
}

(
	flock 9
	: >"$cache/log"
	[ -e "$dir/complete" ] || {
		echo "peer.sh: fetching conntrack-tools $version to $cache" >&2
		fetch
	}
) 9>"$cache/lock" || fail "apt cannot fetch conntrack-tools $version, see $cache/log"
"$dir/conntrack" --version 2>/dev/null | grep -qF " v$version " ||
	fail "the programs in $dir do not run on this machine, or are another version"
echo "$dir"
