# ctbox: `make help` lists the targets.
#
#   BIN=bin             where the binary and its links are built
#   GOARCH=arm64        builds for another machine (all of them: make cross)
#   DESTDIR= PREFIX=    where `make install` installs to
#   RACE=yes            builds with the race detector
#   WITHOUT="nfct json" the parts that `make minimal` leaves out
#   FUZZTIME=20s        how long `make fuzz` runs each target
#   FUZZJOBS=2          how many targets it fuzzes in parallel
#   LONG=yes            `make test` with all cases, as CI runs it
#   TORTURETIME=10m     how long `make torture` takes
#   SIMULATIONS=500     seeds of `make simulate`
#   TORTUREFLAGS=       for torture, failover and soak: -seed N, -arena NAME

GO       ?= go
BIN      ?= bin
PREFIX   ?= /usr/local
FUZZTIME ?= 20s
FUZZJOBS ?= 2
TORTURETIME ?= 10m
SIMULATIONS ?= 500
WITHOUT  ?= conntrackd nfct doctor helpers json metrics export cluster top match allnetns box

MODULE = ctbox

# Nothing of the machine, the folder or the clock goes into the binary, so two
# builds of one commit are the same byte for byte. The tag leaves out urfave/cli's
# documentation generator, which would bring a Markdown parser.
TAGS       = urfave_cli_no_docs
# Code that runs once, or for people, or that waits for the kernel is compiled without inlining,
# which saves 0.5 MB. HOT takes packages out of it: what runs for each flow.
NOTHOT = ctbox ctbox/conf ctbox/applets/... ctbox/sync/... ctbox/nl/cttimeout ctbox/nl/cthelper \
	$(addprefix ctbox/internal/,cnum daemonlog feature iface listen loglimit nearest netns nftrules protofile strerror version) \
	github.com/... golang.org/x/net/... golang.org/x/sync/... golang.org/x/term \
	internal/trace/tracev2 io reflect sort internal/fmtsort path io/fs internal/filepathlite internal/syscall/unix \
	internal/syscall/execenv internal/testlog os fmt os/signal log/internal log math/rand internal/nettrace \
	internal/singleflight weak unique net path/filepath encoding/hex unicode/utf16 math/rand/v2 math/big encoding \
	encoding/base64 encoding/json log/slog/internal log/slog/internal/buffer log/slog os/exec flag regexp/syntax \
	regexp text/tabwriter maps net/url text/template/parse text/template bufio context time unicode \
	golang.org/x/sys/unix syscall internal/poll internal/godebug internal/bisect internal/reflectlite errors \
	internal/oserror
HOT = $(addprefix ctbox/sync/,cache digest follow proto wire)
# The linker starts each function at a multiple of 32 bytes for these machines; 8 saves 0.17 MB.
ARCH = $(or $(GOARCH),$(shell $(GO) env GOARCH))
FUNCALIGN = $(if $(filter amd64 386,$(ARCH)),$(shell $(GO) tool link -help 2>&1 | grep -q -e -funcalign && echo -funcalign=8))
BUILDFLAGS = $(if $(RACE),-race) -tags $(TAGS) $(NOTHOT:%=-gcflags=%=-l) $(HOT:%=-gcflags=%=) -trimpath -buildvcs=false -ldflags "$(strip -s -w -buildid= $(FUNCALIGN))"
export CGO_ENABLED = $(if $(RACE),1,0)

# a comma, for use in $(if)
, := ,

# for what runs on the machine that builds, whatever we build for
HOST = GOOS= GOARCH= GOARM= GOMIPS=

STATICCHECK = $(BIN)/tools/staticcheck-v0.8.2
GOVULNCHECK = $(BIN)/tools/govulncheck-v1.9.0

SOURCES := go.mod $(wildcard go.sum) $(shell find . -name '*.go' -not -name '*_test.go' -not -path './.git/*')

.PHONY: all
all: $(BIN)/ctbox ## build the static binary and the applets' links in ./bin

# Nothing is rebuilt without a change, so that `sudo make install` after `make` needs no
# Go in root's search path.
$(BIN)/ctbox: $(SOURCES) Makefile $(BIN)/.settings
	$(GO) build $(BUILDFLAGS) -o $@ .
	@names=$$($(HOST) $(GO) run -tags $(TAGS) . --list) || exit 1; \
	for name in $$names; do ln -sf ctbox $(BIN)/$$name || exit 1; done

# docs/size.md has the size of each part.
.PHONY: minimal
minimal: ## build bin/minimal/ctbox, for small flash, without the parts in WITHOUT
	$(GO) build $(subst -tags $(TAGS),-tags "$(TAGS) $(WITHOUT:%=no_%)",$(BUILDFLAGS)) -o $(BIN)/minimal/ctbox .

.PHONY: sizes
sizes: ## print the flash sizes of the builds, the table of docs/size.md
	@scripts/need sizes
	@MAKE="$(MAKE)" scripts/sizes.sh

# Further settings that a build depends on; the file changes when one of them does.
SETTINGS = $(GOOS) $(GOARCH) $(GOARM) $(GOMIPS) $(GOFLAGS) $(RACE)

.PHONY: always
$(BIN)/.settings: always
	@mkdir -p $(BIN)
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' >$@

# One package at a time (-p 1): several packages start daemons and load tables, and would
# starve each other on a small machine.
# The tag root adds the tests of otherwise pure packages that need root or Debian's programs.
RUNTESTS = $(HOST) $(GO) run -tags $(TAGS) ./scripts/runtests

# With LONG=yes all cases run. Slow tests have the build tag long, or run only some cases
# if netnstest.Long is false.
.PHONY: test
test: all ## run the tests (root: they make network namespaces); a few minutes
	@scripts/need test
	@[ "$$(id -u)" = 0 ] || { echo "make test: needs root, to make network namespaces" >&2; exit 1; }
	$(RUNTESTS) -count=1 -p 1 -timeout 20m -tags $(TAGS),$(if $(LONG),long$(,))root ./...
	$(GO) test -count=1 -tags $(TAGS),no_box ./applets

.PHONY: test-long
test-long: ## run the tests with all their cases: make test LONG=yes
	@$(MAKE) --no-print-directory test LONG=yes

# The usual peer is conntrack-tools 1.4.9, which scripts/peer.sh fetches. This target runs
# the quick comparisons with Debian 12's version instead.
.PHONY: test-peer
test-peer: all ## compare with the machine's own conntrack-tools, an older version
	@scripts/need test
	CTBOX_PEER=installed $(RUNTESTS) -count=1 -p 1 -tags $(TAGS) \
		./applets/conntrack ./applets/conntrackd ./applets/nfct ./conf ./nl/ctnetlink ./sync/wire

.PHONY: test-all
test-all: all ## run everything: all cases, races, faults, other kernels and machines, fuzzing, packages
	@scripts/test-all.sh

# Few machines have a kernel with the parts that user-space helpers need. The tests are
# compiled outside of the virtual machine, because emulation is slow.
#   KERNEL=7.2          another kernel than that of Debian 12, from 5.10 on; oldest, newest
#   VMFLAGS=-test.run=TestFTP  some of the tests
VMSHORT = -test.run=^(TestNfctHelpers|TestPolicy|TestTFTP|TestSANE|TestNoFlowsOverNetlink|TestUnregisteredHelperIsRefused)$$
VM = scripts/vm.sh --timeout 900 $(if $(KERNEL),--kernel $(KERNEL)) --

.PHONY: test-vm-short
test-vm-short: all $(BIN)/vmtest ## a part of test-vm, with the oldest and the newest kernel
	@scripts/need test-vm
	for kernel in oldest newest; do \
		scripts/vm.sh --timeout 900 --kernel $$kernel -- $(BIN)/vmtest -test.v -test.timeout 14m -bin $(BIN) '$(VMSHORT)' || exit 1; \
	done

.PHONY: test-vm
test-vm: all $(BIN)/vmtest ## test user-space helpers, in a virtual machine with Debian's kernel
	@scripts/need test-vm
	$(VM) $(BIN)/vmtest -test.v -test.timeout 14m -bin $(BIN) $(VMFLAGS)

# Tests of the packages that use the kernel, under another kernel; compiled outside of the virtual machine.
KERNELTESTS = nl/ctnetlink nl/cttimeout nl/cthelper nl/nfqueue conf sync/follow sync/replicate sync/commit sync/node sync/link applets/nfct applets/doctor

.PHONY: test-kernel
test-kernel: all ## run the tests of packages that use the kernel under KERNEL, in a virtual machine
	@scripts/need test test-vm
	@scripts/peer.sh >/dev/null
	@mkdir -p $(BIN)/kerneltest
	@for package in $(KERNELTESTS); do \
		$(GO) test -c -tags $(TAGS) -o $(BIN)/kerneltest/$$(echo $$package | tr / -) ./$$package || exit 1; \
	done
	scripts/vm.sh --timeout 1800 $(if $(KERNEL),--kernel $(KERNEL)) -- sh -c '\
		export CTBOX_BIN=$(abspath $(BIN)); status=0; uname -r; \
		for package in $(KERNELTESTS); do echo "== $$package"; (cd $$package && \
			$(abspath $(BIN))/kerneltest/$$(echo $$package | tr / -) -test.timeout 10m $(KERNELFLAGS)) || status=1; \
		done; exit $$status'

.PHONY: bench-vm
bench-vm: all $(BIN)/vmtest ## measure user-space helpers against Debian's, in a virtual machine
	@scripts/need test-vm
	$(VM) $(BIN)/vmtest -test.run '^$$' -test.bench . -test.benchtime 5000x -test.count 3 -bin $(BIN) $(VMFLAGS)

.PHONY: $(BIN)/vmtest
$(BIN)/vmtest:
	$(GO) test -c -tags $(TAGS),vm -o $@ ./helpers/vmtest

# Tests of whole daemons under faults; docs/reliability.md has the results. The times are
# meaningful on a quiet machine only.
TORTURE = $(GO) test -count=1 -tags $(TAGS),torture -v -timeout 4h ./sync/interop $(TORTUREFLAGS)

.PHONY: torture
torture: ## disturb busy nodes with random faults, for TORTURETIME
	@scripts/need test
	$(TORTURE) -run '^TestTorture$$' -torture.time $(TORTURETIME)

.PHONY: failover
failover: ## kill the primary of two nodes 50 times at 200,000 flows, and one of three, and count the flows that are missing
	@scripts/need test
	$(TORTURE) -run '^TestTakeover(ByKeepalived|OfThree)?$$' -cluster.kills 50 -cluster.flows 66000 -cluster.rate 700 -cluster.exact

.PHONY: simulate
simulate: ## simulate 16 nodes in virtual time, with SIMULATIONS times 20,000 changes, and print figures
	$(GO) test -count=1 -tags $(TAGS) -timeout 4h ./sync/owner -run '^TestSimulation$$' -simulations $(SIMULATIONS) -figures

.PHONY: soak
soak: ## replicate a steady load for an hour: memory, threads and CPU must not grow
	@scripts/need test
	$(TORTURE) -run '^TestSoak$$'

.PHONY: check
check: lint race ## gofmt, vet, staticcheck, and the tests with the race detector

.PHONY: lint
lint: $(STATICCHECK) ## gofmt, vet and staticcheck
	@bad=$$(gofmt -l $$(find . -name '*.go' -not -path './.git/*')); \
	[ -z "$$bad" ] || { echo "gofmt would change:" $$bad >&2; exit 1; }
	$(GO) vet -tags $(TAGS) ./...
	$(GO) vet -tags $(TAGS),vm,torture,long,root,goflow2 ./...
	$(GO) vet -tags $(TAGS),no_box ./applets
	CGO_ENABLED=0 GOARCH=386 $(GO) vet -tags $(TAGS),root ./... # the tests, too, compile for 32 bits
	$(STATICCHECK) -tags $(TAGS),vm,torture,long,root ./...
	@for script in scripts/need scripts/*.sh; do $$(sed -n '1s/^#!.*\///p' $$script | grep . || echo sh) -n $$script || exit 1; done
	@bash -n .ci/run

# Built from the module proxy into a folder of our own: a tool is no dependency
# of the program, so go.mod does not have it.
$(STATICCHECK):
	$(HOST) GOBIN=$(abspath $(BIN))/tools $(GO) install honnef.co/go/tools/cmd/staticcheck@$(@:$(BIN)/tools/staticcheck-%=%)
	@mv $(BIN)/tools/staticcheck $@

# A collector that Debian has no package of, in which the records end as well. It brings a
# client of Kafka, so it takes minutes to build.
GOFLOW2 = $(BIN)/tools/goflow2-v2.2.6

.PHONY: test-goflow2
test-goflow2: all $(GOFLOW2) ## test that goflow2 has each record of the Export clause
	@scripts/need test
	$(GO) test -count=1 -tags $(TAGS),goflow2 -run '^TestGoflow2$$' ./internal/export

$(GOFLOW2):
	$(HOST) GOBIN=$(abspath $(BIN))/tools $(GO) install github.com/netsampler/goflow2/v2/cmd/goflow2@$(@:$(BIN)/tools/goflow2-%=%)
	@mv $(BIN)/tools/goflow2 $@

# VULNDB=optional where the database can't be reached; see the script.
.PHONY: vulncheck
vulncheck: $(GOVULNCHECK) ## check the functions that the program calls for known vulnerabilities
	@scripts/vulncheck.sh $(GOVULNCHECK) -tags $(TAGS) .

$(GOVULNCHECK):
	$(HOST) GOBIN=$(abspath $(BIN))/tools $(GO) install golang.org/x/vuln/cmd/govulncheck@$(@:$(BIN)/tools/govulncheck-%=%)
	@mv $(BIN)/tools/govulncheck $@

# Not the tests that only compile, which have the tag long: the race detector has nothing to
# see there. Nor in packages whose tests run commands one after the other, because those
# programs do not have the detector. sync/interop drives whole daemons, which are built with
# the detector for that; a pair of ours over IPv4 has seen all code. RACEDAEMONS= leaves
# nothing out.
NORACE = $(MODULE) $(MODULE)/docs $(MODULE)/scripts/packaging $(MODULE)/scripts/pictures $(MODULE)/sync/interop
RACEDAEMONS = -skip '/Debian|//Debian|///Debian|//IPv6'

# lint vets the tests. A program with the detector sleeps for a second when it ends, by default. Reports that are
# being written are waited for in any case.
.PHONY: race
race: export GORACE := atexit_sleep_ms=10 $(GORACE)
race: ## run the tests with the race detector
	@scripts/need test race
	CGO_ENABLED=1 $(RUNTESTS) -count=1 -p 1 -vet=off -race -tags $(TAGS),root \
		$$($(GO) list -tags $(TAGS) ./... | grep -vxF $(addprefix -e ,$(NORACE)))
	RACE=yes CGO_ENABLED=1 $(RUNTESTS) -count=1 -vet=off -race -tags $(TAGS),long $(RACEDAEMONS) ./sync/interop

# Two big-endian machines and two of 32 bits.
EMULATED = s390x mips arm

.PHONY: emulated
emulated: ## run the codecs' and parsers' tests on other architectures, under qemu-user
	@scripts/need emulated
	@for arch in $(EMULATED); do \
		echo "== $$arch"; GO="$(GO)" TAGS="$(TAGS)" GOMIPS=softfloat scripts/emulated.sh $$arch || exit 1; \
	done

# qemu-user has no netfilter sockets, but a PC's kernel takes 32-bit programs (with
# CONFIG_IA32_EMULATION), and its structures for them are those of a 32-bit kernel.
.PHONY: test-386
test-386: ## run the tests of packages that use the kernel as a 32-bit program
	@scripts/need test
	CGO_ENABLED=0 GOARCH=386 $(GO) test -count=1 -p 1 -tags $(TAGS) ./internal/recvmmsg ./nl/... ./sync/link ./sync/follow ./sync/replicate ./sync/commit ./sync/node ./helpers

.PHONY: fuzz
fuzz: ## fuzz every fuzz target for FUZZTIME
	@GO="$(GO)" TAGS="$(TAGS)" FUZZTIME="$(FUZZTIME)" JOBS="$(FUZZJOBS)" scripts/fuzz.sh

.PHONY: demo
demo: all ## show conntrack on a NAT firewall, and live connections that survive a failover
	@scripts/need demo
	@scripts/demo-conntrack.sh
	@scripts/demo-failover.sh

# The packages whose tests write files: each has a TestGenerated. One at a time (-p 1),
# because several write their section of docs/differences.md.
.PHONY: generate
generate: ## rewrite completions, man pages, references and lists from the tables in the code
	$(HOST) $(GO) test -count=1 -p 1 -tags $(TAGS) -run '^TestGenerated' $$(grep -rlE '^func TestGenerated' --include='*_test.go' . | xargs -n1 dirname | sort -u) -update

# The records that it draws from are made by scripts/pictures/record.sh.
.PHONY: pictures
pictures: ## redraw docs/pictures
	$(HOST) $(GO) run -tags $(TAGS) ./scripts/pictures

.PHONY: bench
bench: all ## compare with Debian's conntrack and with the kernel alone
	@scripts/need bench
	$(HOST) $(GO) run -tags $(TAGS) ./scripts/bench -bin $(BIN) $(BENCHFLAGS)

# The first is this machine, without an emulator.
.PHONY: bench-emulated
bench-emulated: ## measure sealing against encoding here, on arm64 and on MIPS, under qemu-user
	@scripts/need emulated
	@for machine in $$($(GO) env GOHOSTARCH)= arm64=qemu-aarch64 mips=qemu-mips; do \
		echo "== $${machine%%=*}"; \
		GOARCH=$${machine%%=*} GOMIPS=softfloat $(GO) test -run '^$$' -bench Datagram -benchtime 3000x -count 3 \
			-tags $(TAGS) -exec "$${machine#*=}" ./sync/seal || exit 1; \
	done

# Each target's architecture, as Go's environment has it.
CROSS = amd64 arm64 armv5 armv7 mips-softfloat mipsle-softfloat riscv64 ppc64le s390x
amd64            = GOARCH=amd64
arm64            = GOARCH=arm64
armv5            = GOARCH=arm GOARM=5
armv7            = GOARCH=arm GOARM=7
mips-softfloat   = GOARCH=mips GOMIPS=softfloat
mipsle-softfloat = GOARCH=mipsle GOMIPS=softfloat
riscv64          = GOARCH=riscv64
ppc64le          = GOARCH=ppc64le
s390x            = GOARCH=s390x

.PHONY: cross
cross: $(CROSS:%=$(BIN)/cross/ctbox-%) ## build for every architecture, in ./bin/cross

$(BIN)/cross/ctbox-%: ARCH = $(patsubst GOARCH=%,%,$(filter GOARCH=%,$($*)))
$(BIN)/cross/ctbox-%: $(SOURCES) Makefile
	GOOS=linux $($*) $(GO) build $(BUILDFLAGS) -o $@ .

# nfpm is a tool like staticcheck: no dependency of the program. Later versions
# need modules from places that a proxy may not have.
NFPM = $(BIN)/tools/nfpm-v2.44.1

$(NFPM):
	@echo "building nfpm, the packager, from source: this takes minutes, the first time"
	$(HOST) GOBIN=$(abspath $(BIN))/tools $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(@:$(BIN)/tools/nfpm-%=%)
	@mv $(BIN)/tools/nfpm $@

PACKAGED = amd64 arm64 armv7 mips-softfloat mipsle-softfloat

# The time in the packages is that of the commit.
.PHONY: packages
packages: $(NFPM) $(PACKAGED:%=$(BIN)/cross/ctbox-%) ## make deb, rpm, apk, ipk, tarballs, an OCI image and SBOMs, in ./bin/packages
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)} $(HOST) \
		$(GO) run ./scripts/packaging -nfpm $(NFPM) -cross $(BIN)/cross -out $(BIN)/packages
	@ls $(BIN)/packages

.PHONY: test-packages
test-packages: $(NFPM) ## install and remove the packages in a separate Debian (needs its archive)
	@scripts/need test-packages
	NFPM=$(abspath $(NFPM)) $(GO) test -count=1 -timeout 10m -tags $(TAGS),packages ./scripts/packaging

# The links that `make` made are installed as they are: they lead to ctbox
# beside them. Where a name is taken by anything but such a link, by Debian's
# conntrack say, nothing is installed.
sbindir = $(DESTDIR)$(PREFIX)/sbin
sharedir = $(DESTDIR)$(PREFIX)/share
man5dir = $(sharedir)/man/man5
man8dir = $(sharedir)/man/man8
bashdir = $(sharedir)/bash-completion/completions
zshdir  = $(sharedir)/zsh/site-functions
fishdir = $(sharedir)/fish/vendor_completions.d

.PHONY: install
install: all ## install the binary, its links, man pages and completions
	@for link in $$(find $(BIN) -maxdepth 1 -type l); do \
		path=$(sbindir)/$${link##*/}; \
		[ -e $$path ] || [ -L $$path ] || continue; \
		case $$(readlink $$path) in ctbox | */ctbox) continue ;; esac; \
		echo "make install: $$path is there and is not ours; nothing was installed" >&2; exit 1; \
	done
	install -d $(sbindir)
	install -m 755 $(BIN)/ctbox $(sbindir)/ctbox
	@for link in $$(find $(BIN) -maxdepth 1 -type l); do \
		echo "$${link##*/} -> ctbox"; ln -sfn ctbox $(sbindir)/$${link##*/} || exit 1; \
	done
	install -d $(man5dir) $(man8dir) $(bashdir) $(zshdir) $(fishdir)
	install -m 644 docs/man/*.5 $(man5dir)/
	install -m 644 docs/man/*.8 $(man8dir)/
	@for file in scripts/completion/*.bash; do \
		install -m 644 $$file $(bashdir)/$$(basename $$file .bash) || exit 1; \
	done
	install -m 644 scripts/completion/_* $(zshdir)/
	install -m 644 scripts/completion/*.fish $(fishdir)/

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12
