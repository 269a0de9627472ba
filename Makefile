# Names for plain commands. `make demo` shows the main job; `make test` runs everything.

SSH  ?= 127.0.0.1:2222
HTTP ?= 127.0.0.1:8080
DATA ?= ./data

# What running needs beyond Go, git, make and an SSH client (perl is the sample's language); what the tests need
# besides (a C compiler for the race detector); and the daemon that the benchmarks compare with.
RUN_PACKAGES   = bubblewrap perl
TEST_PACKAGES  = $(RUN_PACKAGES) chromium fonts-liberation fonts-dejavu-core gcc git libc6-dev openssh-client
BENCH_PACKAGES = $(TEST_PACKAGES) openssh-server

TOOL = go tool -modfile=.ci/tools/go.mod

export CGO_ENABLED ?= 0

.PHONY: demo run build test check bench size run-packages test-packages bench-packages clean

demo: run-packages build
	bin/headgate demo --data $(DATA) --ssh $(SSH) --http $(HTTP)

run: run-packages build
	bin/headgate serve --data $(DATA) --ssh $(SSH) --http $(HTTP)

build:
	go build -trimpath -ldflags '-s -w' -o bin/ ./cmd/headgate ./cmd/headgate-hook

test: test-packages check
	CGO_ENABLED=1 go test -race -timeout 30m ./...

# Everything that reads the code without running it.
check:
	@unformatted=$$(gofmt -l cmd e2e gitd hooks policies reconciler); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted; run: gofmt -w ."; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	@.ci/govulncheck

bench: bench-packages build
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./e2e/bench

# The budget worth watching: binary, modules, cold build time.
size: build
	@.ci/size

run-packages:
	@.ci/packages $(RUN_PACKAGES)

test-packages:
	@.ci/packages $(TEST_PACKAGES)

bench-packages:
	@.ci/packages $(BENCH_PACKAGES)

clean:
	rm -rf bin
