#!/bin/sh
# usage: scripts/vm.sh [--timeout SECONDS] [--kernel VERSION] [--] COMMAND [ARGUMENT...]
#
# Runs a command as root in a temporary virtual machine under Debian's kernel, for
# tests that need nfnetlink_cthelper and conntrack in NFQUEUE's messages, which many
# kernels lack. QEMU emulates the processor, so no /dev/kvm is needed, and computing
# takes about ten times as long.
#
# The command sees this machine's files at the same paths, and starts in the same
# directory. It may write everywhere, but its changes are discarded. Its stdout and
# stderr are printed as one stream while it runs; its input is empty. CTBOX_VM=1 is in
# its environment. It has no network except the namespaces that it creates. The kernel
# does not load its own helpers (ftp ...) for rules that name them: only helpers that
# the command registers exist.
#
# Exit status: the command's; 124 if it ran longer than --timeout (600 seconds); 125,
# with the reason on standard error, if the virtual machine could not run it.
#
# --kernel selects a version (5.10, 6.1, 6.12, 7.2 ...): the newest build of it in
# Debian's suites from bullseye to unstable; or `oldest' (bullseye's) or `newest'
# (unstable's). The default is the kernel of this machine's own suite.
#
# apt fetches the kernel once, into $CTBOX_VM_CACHE, else $XDG_CACHE_HOME/ctbox-vm,
# else ~/.cache/ctbox-vm; delete that directory to fetch a new kernel.
# A boot may take CTBOX_VM_BOOT (90) seconds.
set -eu

fail() {
	echo "vm.sh: $*" >&2
	exit 125
}

timeout=600
version=
while [ $# -gt 0 ]; do
	case $1 in
	--timeout)
		[ $# -gt 1 ] || fail "--timeout needs a number of seconds"
		timeout=$2
		shift 2
		;;
	--kernel)
		[ $# -gt 1 ] || fail "--kernel needs a version"
		version=$2
		shift 2
		;;
	--) shift; break ;;
	-*) fail "unknown option $1" ;;
	*) break ;;
	esac
done
boot=${CTBOX_VM_BOOT:-90}
case $timeout in '' | *[!0-9]*) fail "not a number of seconds: $timeout" ;; esac
case $boot in '' | *[!0-9]*) fail "not a number of seconds: $boot" ;; esac
case $version in oldest | newest) ;; *[!0-9.]*) fail "not a kernel's version: $version" ;; esac
[ $# -gt 0 ] || fail "no command given"

[ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m); only x86_64 is supported"
for tool in qemu-system-x86_64 busybox apt-get dpkg-deb flock setpriv; do
	command -v $tool >/dev/null || fail "$tool is missing (scripts/need test-vm)"
done
cache=${CTBOX_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/ctbox-vm}
mkdir -p "$cache" || fail "cannot make $cache"

# ---- the kernel and its modules, once

# The package's modules that the virtual machine gets.
modules='net/netfilter net/ipv4 net/ipv6 net/core net/bridge net/802 net/llc net/9p fs/9p fs/netfs fs/fscache fs/overlayfs
drivers/virtio drivers/net/veth.ko* drivers/net/dummy.ko* lib crypto arch/x86/crypto arch/x86/lib'
kernel=$cache/linux${version:+-$version}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/archive.sh"

# image prints the package with the newest kernel of the wanted version that apt knows.
image() {
	case $version in
	'' | oldest | newest)
		# shellcheck disable=SC2086
		apt-cache $apt show --no-all-versions linux-image-amd64 |
			sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p'
		return
		;;
	esac
	# shellcheck disable=SC2086
	apt-cache $apt pkgnames "linux-image-$version." |
		grep -E '^linux-image-[0-9.]+(-[0-9]+|\+deb[0-9]+)-amd64$' | sort -V | tail -n 1
}

# suitesOf prints the suites that may have a kernel of that version, the likeliest first.
# The list dates from when this was written; unstable moves on.
suitesOf() {
	case $1 in
	5.10 | oldest) echo bullseye ;;
	6.1) echo bookworm ;;
	6.12) echo trixie bookworm-backports ;;
	newest) echo sid ;;
	*) echo sid forky trixie-backports ;;
	esac
}

# fetch DIRECTORY leaves vmlinuz and modules.cpio there.
fetch() (
	set -e
	cd "$1"
	package=$(image)
	[ -n "$package" ]
	# From Linux 6.19 on this is a metapackage; two other packages have the kernel and its
	# modules.
	# shellcheck disable=SC2086
	parts=$(apt-cache $apt show --no-all-versions "$package" | grep '^Depends:' | grep -oE 'linux-(binary|modules)-[^ ,]+' | sort -u)
	# shellcheck disable=SC2086
	apt-get $apt -q -o APT::Sandbox::User=root download "$package" $parts
	for part in $modules; do
		echo "./lib/modules/*/kernel/$part"
		echo "./usr/lib/modules/*/kernel/$part"
	done >wanted
	for deb in ./*.deb; do
		# Not every kernel has every part, and no single package has a whole kernel.
		dpkg-deb --fsys-tarfile "$deb" | tar -x --wildcards -T wanted './boot/vmlinuz-*' './lib/modules/*/modules.*' \
			'./usr/lib/modules/*/modules.*' './usr/lib/modules/*/vmlinuz' || :
	done
	if [ -d usr/lib/modules ]; then
		mkdir -p lib
		mv usr/lib/modules lib/
	fi
	release=$(basename lib/modules/*)
	mv boot/vmlinuz-* vmlinuz 2>/dev/null || mv "lib/modules/$release/vmlinuz" vmlinuz
	find lib -name '*.ko.xz' -exec busybox unxz {} +
	find lib -name '*.ko.zst' -exec zstd -dq --rm {} +
	[ -n "$(find lib -name 'nf_conntrack.ko')" ]
	busybox depmod -b "$PWD" "$release"
	find lib | busybox cpio -o -H newc >modules.cpio
	rm -rf ./*.deb wanted boot lib usr
)

setup() {
	[ ! -s "$kernel/vmlinuz" ] || return 0
	echo "vm.sh: fetching a kernel${version:+ $version} to $kernel" >&2
	apt=
	if [ -z "$version" ]; then
		tries='fetch update'
	else
		tries=$(suitesOf "$version")
	fi
	for try in $tries; do
		rm -rf "$cache/new"
		mkdir "$cache/new"
		case $try in
		fetch) ;;
		update) apt-get -q update >>"$cache/log" 2>&1 || : ;;
		*)
			rm -rf "$cache/lists"
			suites "$cache/lists" "$try" >>"$cache/log" 2>&1 || continue
			;;
		esac
		if fetch "$cache/new" >>"$cache/log" 2>&1; then
			rm -rf "$cache/lists" "$kernel"
			mv "$cache/new" "$kernel"
			return 0
		fi
	done
	return 1
}

(
	flock 9
	setup
) 9>"$cache/lock" || fail "apt cannot fetch a kernel${version:+ $version}, see $cache/log"

# ---- what runs in the virtual machine

# Remove what killed runs left behind a day ago or earlier.
find "$cache" -maxdepth 1 -name 'run.*' -mmin +1440 -exec rm -rf {} +
run=$(mktemp -d "$cache/run.XXXXXX") || fail "cannot make a directory in $cache"
qemu=
end() {
	trap - EXIT
	[ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || :
	rm -rf "$run"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Process 1. It is outside the file tree that the command sees, and so is the
# kernel's modprobe. The first serial line is the kernel's console, the second the
# command's output, and on the third this script reads the state.
mkdir -p "$run/root/bin" "$run/root/dev" "$run/root/proc" "$run/root/sys" "$run/root/host" \
	"$run/root/over" "$run/root/new"
cat >"$run/root/init" <<'END'
#!/bin/busybox sh
PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in virtio_pci 9pnet_virtio 9p overlay; do modprobe $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host &&
mount -t tmpfs -o size=75% over /over && mkdir /over/upper /over/work &&
mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work root /new &&
mount --move /dev /new/dev && mkdir -p /new/dev/pts /new/dev/shm &&
mount -t devpts pts /new/dev/pts && mount -t tmpfs shm /new/dev/shm &&
mount -t proc proc /new/proc && mount -t sysfs sys /new/sys && mount -t tmpfs run /new/run &&
mkdir -p /new/run/lock /new/lib/modules && mount --bind /lib/modules /new/lib/modules || { echo "vm.sh: cannot build the file tree"; poweroff -f; }
ln -sf /proc/self/fd /new/dev/fd
for i in 0:in 1:out 2:err; do ln -sf fd/${i%:*} /new/dev/std${i#*:}; done
echo /bin/autoload >/proc/sys/kernel/modprobe
ip link set lo up
cp /command /new/run/command
stty -F /new/dev/ttyS1 115200 -opost
echo booted >/new/dev/ttyS2
exec 3<>/new/dev/ttyS1 4<>/new/dev/ttyS2 5</new/dev/null
# Not a chroot alone, in which no user namespace can be made: the tree becomes the
# namespace's root, and this process stays below it.
(cd /new && mount --move . / && exec chroot . /bin/sh /run/command) <&5 >&3 2>&1 3>&- 4>&- 5<&-
status=$?
stty 115200 <&3 # and wait until all is written
echo "ended $status" >&4
stty 115200 <&4
poweroff -f
END
cat >"$run/root/bin/autoload" <<'END'
#!/bin/busybox sh
case $* in *nfct-helper-*) exit 1 ;; esac
exec /bin/modprobe "$@"
END
quote() { # for the shell that reads it
	printf "'"
	printf %s "$1" | sed "s/'/'\\\\''/g"
	printf "' "
}
{
	echo 'export CTBOX_VM=1 HOME=/root LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
	printf 'cd ' && quote "$PWD" && printf '&& exec '
	for word; do quote "$word"; done
	echo
} >"$run/root/command"
chmod 755 "$run/root/init" "$run/root/bin/autoload"
cp "$(command -v busybox)" "$run/root/bin/busybox"
for library in $(ldd "$(command -v busybox)" 2>/dev/null | grep -o '/[^ ]*'); do
	mkdir -p "$run/root${library%/*}"
	cp -L "$library" "$run/root$library"
done
{
	cat "$kernel/modules.cpio"
	(cd "$run/root" && find . | busybox cpio -o -H newc 2>/dev/null)
} >"$run/initrd"

# ---- running it

# start boots the machine, which has to start the command within the limit. Two features
# that are expensive to emulate are off: CPU vulnerability mitigations, and address
# randomization, which makes QEMU translate each program again.
start() {
	: >"$run/state"
	setpriv --pdeathsig KILL qemu-system-x86_64 -nodefaults -no-user-config -no-reboot \
		-M pc -accel tcg -cpu max,-la57,-smap,-smep,-umip,-pku -m 1024 -display none \
		-kernel "$kernel/vmlinuz" -initrd "$run/initrd" \
		-append 'console=ttyS0 quiet panic=-1 nokaslr norandmaps mitigations=off' \
		-serial "file:$run/console" -serial stdio -serial "file:$run/state" \
		-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
		-device virtio-9p-pci,fsdev=host,mount_tag=host \
		</dev/null 2>"$run/errors" &
	qemu=$!
	waitfor booted $boot
}

# waitfor STATE SECONDS fails if the machine ends or the time is over.
waitfor() {
	limit=$(($(date +%s) + $2))
	until grep -q "^$1" "$run/state"; do
		kill -0 $qemu 2>/dev/null || { grep -q "^$1" "$run/state" && return; return 1; }
		[ "$(date +%s)" -lt $limit ] || return 2
		sleep 0.1
	done
}

# said prints the first error of the kernel or QEMU, or else the last line.
said() {
	cat "$run/errors" "$run/console" 2>/dev/null | tr -d '\r' | grep -a . >"$run/said" || :
	grep -aEm 1 'panic|BUG|Oops|Out of memory|qemu' "$run/said" || tail -n 1 "$run/said"
}

for try in 1 2 3; do
	start && break
	why=$(said)
	kill -KILL $qemu 2>/dev/null || :
	wait $qemu 2>/dev/null || :
	qemu=
	[ $try -lt 3 ] || fail "the machine did not boot: ${why:-no output in $boot s}"
	echo "vm.sh: the machine did not boot (${why:-no output in $boot s}); once more" >&2
done
result=0
waitfor ended "$timeout" || result=$?
case $result in
0)
	wait $qemu || :
	qemu=
	exit "$(sed -n 's/^ended \([0-9]*\).*/\1/p' "$run/state")"
	;;
1) fail "the machine ended before the command: $(said)" ;;
2)
	echo "vm.sh: the command still ran after $timeout s" >&2
	exit 124
	;;
esac
