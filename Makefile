# Everything a developer types. `make help` lists it.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo none)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOL    := $(GO) tool -modfile=tools.mod

.DEFAULT_GOAL := all
.PHONY: all build images demo test e2e race fuzz soak bench lint generate check help

all: build lint test ## build, lint and test

build: ## build bin/graphene and bin/fwatchdog
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cli/cmd/graphene ./watchdog/cmd/fwatchdog

PLATFORMS ?= linux/amd64,linux/arm64
images: ## build bin/images, and push to PUSH=REGISTRY/PREFIX; ONLY=NAME,... for some
	$(GO) run ./cli/cmd/images -version $(VERSION) -commit $(COMMIT) -push '$(PUSH)' -only '$(ONLY)' -platforms '$(PLATFORMS)'

demo: build ## start a platform, deploy the examples, call them, stay up until Ctrl-C
	$(GO) run ./test/demo -graphene bin/graphene

test: ## run every test that needs no root and no containers
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...
	$(GO) -C test/chart vet ./...
	$(GO) -C test/chart test ./...

# With KUBECONFIG and REGISTRY on the command line, in another cluster than the
# one that is made for it: an exported KUBECONFIG may lead to somebody's work.
e2e: ## run the end-to-end tests in a real Kubernetes; as root, or with KUBECONFIG=FILE REGISTRY=HOST
	KUBECONFIG='$(if $(filter command,$(firstword $(origin KUBECONFIG))),$(KUBECONFIG))' test/e2e/e2e.sh

race: ## run the tests with the race detector
	$(GO) test -race -timeout 30m ./...

FUZZTIME ?= 10s
fuzz: ## fuzz every parser of strangers' bytes, FUZZTIME each
	$(GO) run ./test/fuzz -fuzztime $(FUZZTIME)

SOAK ?= 10m
soak: ## load a platform with a function that leaks, hangs and crashes, for SOAK
	SOAK=$(SOAK) $(GO) test -count=1 -v -timeout 0 ./test/soak

bench: build ## measure, and rewrite docs/reference/performance.md
	$(GO) run ./test/bench -graphene bin/graphene -out docs/reference/performance.md

lint: ## vet and lint
	$(GO) vet ./...
	$(GO) -C test/cluster vet .
	$(TOOL) golangci-lint run

# The tests that hold a file against what the code says of itself.
golden = grep -r --include='*_test.go' -e '^func Test' -e 'testkit\.Golden' .
generate: ## rewrite generated files: reference pages and golden files
	$(GO) test -count=1 \
		-run "^($$($(golden) | awk -F'func |[(]' '/:func /{name=$$2} /testkit\.Golden/{print name}' | sort -u | paste -sd'|'))$$" \
		$$($(golden) | grep 'testkit\.Golden' | cut -d: -f1 | xargs -n1 dirname | sort -u) -update
	$(GO) -C test/chart test -count=1 . -update

check: lint test race ## what the continuous integration runs

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
