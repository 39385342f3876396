# Everything a developer runs, as a target. `make` alone lists them.

BENCH    ?= .
COUNT    ?= 1
FUZZTIME ?= 10s
PACKAGES ?= ./...
SEEDS    ?= 1000
SEED     ?=
ROUNDS   ?= 3
NEMESIS  ?=

GO      := go
LINTER  := $(GO) tool -modfile=.ci/lint/go.mod golangci-lint
SOURCES := find . -name '*.go' -not -path './.git/*' -type f

.DEFAULT_GOAL := help
.PHONY: help build run test race fuzz bench bench-cluster sim chaos lint fmt fmt-check generate generate-check check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables: PACKAGES=%s BENCH=%s COUNT=%s FUZZTIME=%s SEEDS=%s ROUNDS=%s\n' '$(PACKAGES)' '$(BENCH)' '$(COUNT)' '$(FUZZTIME)' '$(SEEDS)' '$(ROUNDS)'

build: ## build bin/cartd and bin/cartload
	@mkdir -p bin
	@$(GO) build -trimpath -o bin/ ./cmd/cartd ./cmd/cartload

run: ## run a node in development mode on 127.0.0.1:8080
	@$(GO) run ./cmd/cartd serve --dev

test: ## run the tests of PACKAGES
	@$(GO) test $(PACKAGES)

race: ## run the tests of PACKAGES under the race detector, but those of other processes (needs a C compiler)
	@CGO_ENABLED=1 $(GO) test -race -short $(PACKAGES)

fuzz: ## run every fuzz target of PACKAGES for FUZZTIME each
	@list=$$($(GO) test -list '^Fuzz' $(PACKAGES)) || { printf '%s\n' "$$list"; exit 1; }; \
	printf '%s\n' "$$list" | \
	awk '/^Fuzz/ { name[++n] = $$1 } /^ok/ { for (i = 1; i <= n; i++) print $$2, name[i]; n = 0 }' | \
	while read -r package target; do \
		echo "$$package $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null || exit 1; \
	done

bench: ## run the benchmarks BENCH of PACKAGES, COUNT times
	@$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) $(PACKAGES)

bench-cluster: DURATION ?= 4s
bench-cluster: ## one node and three, two regions, and regions that grow, in ROUNDS rounds of DURATION (4s) a measurement (Linux, PostgreSQL)
	@$(GO) test -run '^$$' -bench '^Benchmark(Cluster|Regions|Growth)$$' -timeout 2h ./cmd/cartd -cluster.rounds $(ROUNDS) -cluster.duration $(DURATION)

sim: ## simulate a region under SEEDS seeds, or under one, with its trace: SEED=17
	@$(if $(SEED),SEED='$(SEED)',SEEDS='$(SEEDS)') $(GO) test ./internal/sim -run '^TestSimulation$$' -count=1 -v -timeout 2h

chaos: DURATION ?= 15s
chaos: ## regions of hosts under one fault after another, or NEMESIS=kill,loss, for DURATION (15s) each (Linux, root)
	@$(GO) test ./internal/chaos -run '^TestChaos$$' -count=1 -v -timeout 1h \
		-chaos.nemesis '$(or $(NEMESIS),all)' -chaos.duration $(DURATION) $(if $(SEED),-chaos.seed $(SEED))

lint: ## run the linters of .golangci.yml
	@$(LINTER) run ./...

fmt: ## format the sources (gofumpt, goimports)
	@$(LINTER) fmt ./...

fmt-check: ## fail when a source is not formatted, and show the difference
	@$(LINTER) fmt --diff ./...

generate: ## write the generated code anew
	@$(GO) generate ./...

generate-check: ## fail when the generated code was out of date
	@before=$$($(SOURCES) | LC_ALL=C sort | xargs cksum); \
	$(GO) generate ./... || exit 1; \
	after=$$($(SOURCES) | LC_ALL=C sort | xargs cksum); \
	if [ "$$before" != "$$after" ]; then \
		echo 'generated code was out of date; it has been written anew: review and commit it' >&2; exit 1; \
	fi

check: fmt-check lint generate-check test ## all that a change must pass: format, lint, generated code, tests

clean: ## remove what the other targets built
	@rm -rf bin
	@find . -name '*.prof' -type f -not -path './.git/*' -exec rm -f {} +
	@find . -name '*.test' -type f -not -path './.git/*' -exec rm -f {} +
