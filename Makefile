# `make` lists the targets. CI runs nothing but this file (.ci/run).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := $(CURDIR)/.bin
export PATH := $(BIN):$(PATH)

# Packages tested at the same time. Each may start Redis or a browser of its own: more
# than 2 makes their deadlines a matter of luck on small machines.
TEST_PARALLEL ?= 2
TEST_FLAGS ?=
BENCH ?= .
FUZZ_TIME ?= 10s

# The date is the commit's, so that a build can be repeated.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
DATE ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

# The version of a module that go.mod requires: generators match what they generate for.
required = $(shell awk '$$1 == "$(1)" { print $$2 }' go.mod)
PROTOBUF_VERSION := $(call required,google.golang.org/protobuf)
GATEWAY_VERSION := $(call required,github.com/grpc-ecosystem/grpc-gateway/v2)

# The text before "## " names a target, the text after it says what it does.
.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: build ## Run everything in one process, without Redis or other services
	$(BIN)/eventbus dev

.PHONY: build
build: ## Build .bin/eventbus
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/eventbus .

# The console is JavaScript, which the race detector only slows down: its bus is tested
# with it everywhere else. So its tests run beside those of deploy/.
# deploy/ is a module of its own, because its dependencies (kustomize, Kubernetes) are not the
# product's. Its tests build the product, which the test cache does not see: -count=1.
.PHONY: test
test: deps grpcurl ## Run all tests with the race detector, and those of deploy/ that are quick
	go test -race -timeout 9m -p $(TEST_PARALLEL) $(TEST_FLAGS) $$(go list ./... | grep -v /edge/console)
	go test -timeout 9m $(TEST_FLAGS) ./edge/console & console=$$!; failed=0; \
	(cd deploy && go test -count=1 -timeout 9m -p 1 -skip '^TestTerraform_' $(TEST_FLAGS) ./...) || failed=$$?; \
	wait $$console || failed=$$?; exit $$failed

# Where terraform cannot be had, its tests pass and write down what they left out.
NOT_CHECKED := $(BIN)/not-checked
.PHONY: testdeploy
testdeploy: ## Run the slow tests of deploy/: Terraform plans, applies and destroys, on an EC2 on loopback
	@mkdir -p $(BIN) && rm -f $(NOT_CHECKED)
	cd deploy && EVENTBUS_NOT_CHECKED=$(NOT_CHECKED) go test -count=1 -timeout 30m -run '^TestTerraform_' $(TEST_FLAGS) ./terraform
	@if [ -s $(NOT_CHECKED) ]; then printf '\n%s\n' 'testdeploy passed, BUT:'; cat $(NOT_CHECKED); fi >&2

.PHONY: testmachines
testmachines: ## Run the Ansible playbooks on three machines that are booted for it (root, minutes)
	@.ci/deps machines
	cd deploy && go test -tags machines -count=1 -timeout 40m -run '^TestPlaybooks_OnMachines' $(TEST_FLAGS) ./ansible

# deploy/example is another one, because of RabbitMQ's client.
.PHONY: example
example: build ## Play the whole pipeline: upload, RabbitMQ, workers in Go and Python, a page (Debian, root)
	@.ci/deps example
	cd deploy/example && go build -o $(BIN)/example .
	$(BIN)/example run --repo . --eventbus $(BIN)/eventbus

.PHONY: test-example
test-example: deps ## Run the example's tests: 200 scans watched while workers are killed, and more
	@.ci/deps example
	cd deploy/example && go vet ./... && go test -race -timeout 15m -p 1 $(TEST_FLAGS) ./...

CHAOS_SEED ?= $(shell date +%s)
.PHONY: chaos
chaos: deps ## Run the whole fault suite on all topologies, about 10 minutes (CHAOS_SEED)
	go test -race -count=1 -v ./edge/chaos -run 'TestChaos|TestLoss|TestBackpressure|TestRebalance|TestRolling' -timeout 20m -chaos.full -chaos.topology=all -chaos.seed=$(CHAOS_SEED)

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZ_TIME (10s)
	@found=0; \
	for file in $$(find . -name '*_test.go' ! -path './.*'); do \
		for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$$file"); do \
			found=1; \
			echo "fuzz $$name in $${file%/*}"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ_TIME) "$${file%/*}"; \
		done; \
	done; \
	[ $$found = 1 ] || echo 'no fuzz tests'

.PHONY: screenshots
screenshots: deps ## Take the pictures of docs/console.md anew, from a real bus in a real browser
	go test -count=1 ./edge/console -run TestShots -console.shots=$(CURDIR)/docs/images

BENCH_FLAGS ?=
.PHONY: bench
bench: deps build ## Measure everything beside the floor, about 6 minutes, into docs/performance.md (BENCH_FLAGS)
	$(BIN)/eventbus bench --self=serve,router+edge --floor --page=docs/performance.md $(BENCH_FLAGS)

.PHONY: growth
growth: deps build ## Measure how cost grows with browsers, jobs, size, routers, shards, about 5 minutes, into docs/performance.md (BENCH_FLAGS)
	$(BIN)/eventbus bench --self=router+edge --growth --page=docs/performance.md $(BENCH_FLAGS)

.PHONY: microbench
microbench: deps ## Run the Go benchmarks that match BENCH (all)
	go test -run '^$$' -bench '$(BENCH)' -benchmem -p 1 ./...

.PHONY: lint
lint: golangci-lint buf ## Check format and style of Go and proto
	@unformatted=$$(find . -name '*.go' ! -path './.*' ! -path './gen/*' -exec gofmt -l {} +); \
	[ -z "$$unformatted" ] || { printf 'not gofmt-ed (make fmt):\n%s\n' "$$unformatted"; exit 1; }
	buf format --diff --exit-code proto
	buf lint proto
	golangci-lint config verify
	golangci-lint run ./...
	cd deploy/example && golangci-lint run ./...

.PHONY: fmt
fmt: golangci-lint buf ## Format Go and proto
	golangci-lint fmt ./...
	buf format --write proto

.PHONY: vet
vet: ## Compile everything, tests included, and vet it
	go vet ./...
	cd deploy && go vet ./... && go vet -tags machines ./ansible

GENERATED := edge/openapi.json docs/api.md
.PHONY: generate
generate: generators ## Write gen/, edge/openapi.json and docs/api.md from proto/, docs/metrics.md from the program
	$(call into,$(BIN)/generated)
	rm -rf gen
	mv $(BIN)/generated/gen gen
	@for file in $(GENERATED); do mv -v $(BIN)/generated/$$file $$file; done
	go run . metrics > docs/metrics.md

.PHONY: checkgenerate
checkgenerate: generators ## Check that generated code is up to date
	$(call into,$(BIN)/generated)
	@for path in gen $(GENERATED); do \
		diff -ru $$path $(BIN)/generated/$$path || { echo 'generated code differs: run make generate'; exit 1; }; \
	done
	@go run . metrics | diff -u docs/metrics.md - || { echo 'docs/metrics.md differs: run make generate'; exit 1; }

# $(call into,DIR) generates everything into an empty DIR.
define into
rm -rf $(1)
buf generate -o $(1)
@mv $(1)/edge/openapi.swagger.json $(1)/edge/openapi.json
endef

.PHONY: breaking
breaking: buf ## Check that proto/ breaks no client of main (or of AGAINST=<revision>)
	@.ci/breaking

.PHONY: picture
picture: deps ## Play what the README shows and write docs/images/eventbus.gif, from a real browser
	go test ./server/quickstart -count=1 -run '^TestPicture' -args -picture=$(CURDIR)/docs/images/eventbus.gif

.PHONY: checktidy
checktidy: ## Check that go.mod and go.sum are tidy
	go mod tidy -diff
	cd deploy && go mod tidy -diff
	cd deploy/example && go mod tidy -diff

.PHONY: deps
deps: ## Install what the tests need and Go does not bring: Redis, a browser, promtool, Ansible, Node, Python (Debian, root)
	@.ci/deps

.PHONY: clean
clean: ## Remove .bin: tools and binaries
	rm -rf $(BIN)

# Tools are built into .bin from the module proxy, pinned here and kept out of go.mod, so
# that theirs are not the product's dependencies. A stamp carries the version: another
# pin builds anew. Once built, everything above works offline.
#
# $(call tool,NAME,PACKAGE,VERSION)
define tool
.PHONY: $(1)
$(1): $(BIN)/.$(1)@$(3)
$(BIN)/.$(1)@$(3):
	@mkdir -p $(BIN)
	@rm -f $(BIN)/.$(1)@*
	CGO_ENABLED=0 GOBIN=$(BIN) go install $(2)@$(3)
	@touch $$@
endef

$(eval $(call tool,buf,github.com/bufbuild/buf/cmd/buf,v1.75.0))
$(eval $(call tool,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,v2.15.0))
$(eval $(call tool,grpcurl,github.com/fullstorydev/grpcurl/cmd/grpcurl,v1.9.3))
$(eval $(call tool,protoc-gen-doc,github.com/pseudomuto/protoc-gen-doc/cmd/protoc-gen-doc,v1.5.1))
$(eval $(call tool,protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOBUF_VERSION)))
$(eval $(call tool,protoc-gen-go-grpc,google.golang.org/grpc/cmd/protoc-gen-go-grpc,v1.6.2))
$(eval $(call tool,protoc-gen-grpc-gateway,github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway,$(GATEWAY_VERSION)))
$(eval $(call tool,protoc-gen-openapiv2,github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2,$(GATEWAY_VERSION)))

.PHONY: generators
generators: buf protoc-gen-doc protoc-gen-go protoc-gen-go-grpc protoc-gen-grpc-gateway protoc-gen-openapiv2

.PHONY: tools
tools: generators golangci-lint grpcurl ## Build all tools into .bin
