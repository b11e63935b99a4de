# ctbox: `make help` lists the targets.
#
#   BIN=bin             where the binary and its links are built
#   GOARCH=arm64        builds for another machine (see also: make cross)
#   DESTDIR= PREFIX=    where `make install` installs to

GO     ?= go
BIN    ?= bin
PREFIX ?= /usr/local

# Nothing of the machine, the folder or the clock goes into the binary, so two
# builds of one commit are the same byte for byte. The tag leaves out urfave/cli's
# documentation generator, which would bring a Markdown parser.
TAGS       = urfave_cli_no_docs
BUILDFLAGS = -tags $(TAGS) -trimpath -buildvcs=false -ldflags "-s -w -buildid="
export CGO_ENABLED = 0

SOURCES := go.mod $(wildcard go.sum) $(shell find . -name '*.go' -not -name '*_test.go' -not -path './.git/*')

.PHONY: all
all: $(BIN)/ctbox ## build the static binary and the applets' links in ./bin

# The links are made by a ctbox for the machine that builds, which need not be
# the one we build for.
$(BIN)/ctbox: $(SOURCES) Makefile
	@mkdir -p $(BIN)
	$(GO) build $(BUILDFLAGS) -o $@ .
	@for name in $$(GOOS= GOARCH= GOARM= GOMIPS= $(GO) run -tags $(TAGS) . --list); do \
		ln -sf ctbox $(BIN)/$$name || exit 1; \
	done

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12
