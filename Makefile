# Names for plain commands. `make demo` shows the main job; `make test` runs everything.

SSH  ?= 127.0.0.1:2222
HTTP ?= 127.0.0.1:8080
DATA ?= ./data

# What running needs beyond Go, git, make and an SSH client (perl is the sample's language); what the race detector
# needs to be built (a C compiler), and the tests besides; and the daemons that the benchmarks compare with.
RUN_PACKAGES   = bubblewrap perl
RACE_PACKAGES  = gcc libc6-dev
TEST_PACKAGES  = $(RUN_PACKAGES) $(RACE_PACKAGES) chromium fonts-liberation fonts-dejavu-core git openssh-client procps skopeo e2fsprogs docker.io docker-registry iptables busybox-static podman netavark aardvark-dns catatonit curl iproute2
BENCH_PACKAGES = $(TEST_PACKAGES) openssh-server nginx-light

# One set of flags for everything, so that nothing is compiled twice.
export CGO_ENABLED ?= 0
export GOFLAGS     += -trimpath

WEBHOOK_EXAMPLES = .ci/examples/node_modules/@octokit/webhooks-examples
export HEADGATE_WEBHOOK_EXAMPLES ?= $(CURDIR)/$(WEBHOOK_EXAMPLES)

# With the race detector. What reads the code reads it that way too, for the same reason.
RACED = CGO_ENABLED=1 GOFLAGS="$(GOFLAGS) -race"

.PHONY: demo run build test test-raced test-unraced test-kubernetes bench-kubernetes agent-image webhook-examples check staticcheck bench soak size run-packages race-packages test-packages bench-packages clean

demo: run-packages build
	bin/headgate demo --data $(DATA) --ssh $(SSH) --http $(HTTP)

run: run-packages build
	bin/headgate serve --data $(DATA) --ssh $(SSH) --http $(HTTP)

build:
	go build -ldflags '-s -w' -o bin/ ./cmd/headgate ./cmd/headgate-hook

# More tests at a time than there are cores, since most of them mostly wait: stories beside packages, several of those,
# and several tests of each. go vet has been run by check. What tests throw away is collected less often than usual, no
# program waits at its end for races to be reported, and a make that a test runs is none of this one.
TEST = env -u MAKEFLAGS -u MFLAGS GOGC=400 GORACE=atexit_sleep_ms=0 .ci/in-memory go test -vet=off -timeout 30m

test: test-packages webhook-examples check
	@echo "left out: target: kubernetes with a real control plane; make test-kubernetes has it"
	@$(MAKE) --no-print-directory -j 2 test-raced test-unraced

# Whole stories, killed at each point in a process of their own, are about what is on disk. With the race detector they
# would take three times as long.
KILLED = ^TestKilledAtEveryPoint$$

test-raced:
	CGO_ENABLED=1 $(TEST) -race -p 3 -parallel 4 -skip '$(KILLED)' $$(.ci/concurrent)

test-unraced:
	$(TEST) -p 2 $$(.ci/concurrent not)
	$(TEST) -p 2 -run '$(KILLED)' $$(.ci/concurrent killed)

# The agent of a cluster, a module of its own, with a real control plane, which is built once and kept outside the tree:
# that takes ten minutes and more. make test leaves it out.
test-kubernetes: test-packages staticcheck
	cd cmd/headgate-kube && go vet ./... && ../../bin/staticcheck ./...
	programs=$$(.ci/kube/build) && cd cmd/headgate-kube && HEADGATE_KUBE_PROGRAMS=$$programs go test -vet=off ./...

bench-kubernetes: bench-packages
	programs=$$(.ci/kube/build) && cd cmd/headgate-kube && HEADGATE_KUBE_PROGRAMS=$$programs \
		go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./...

# The image of that agent, of its program and nothing else.
agent-image:
	cd cmd/headgate-kube && go build -ldflags "-s -w -X main.version=$$(git rev-parse --short=12 HEAD)" -o ../../bin/ .
	go run ./.ci/image bin/headgate-kube bin/headgate-kube.tar

# The webhooks that GitHub publishes as examples: test data that is not committed.
webhook-examples: test-packages
	@command -v npm >/dev/null || .ci/packages npm
	@test -d $(WEBHOOK_EXAMPLES) || npm install --silent --no-save --no-package-lock --ignore-scripts --no-audit --no-fund \
		--prefix .ci/examples @octokit/webhooks-examples@7.6.1

# Everything that reads the code without running it.
check: race-packages staticcheck
	@unformatted=$$(gofmt -l cmd e2e gitd hooks policies reconciler); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted; run: gofmt -w ."; exit 1; }
	$(RACED) go vet ./...
	$(RACED) bin/staticcheck ./...
	@cd cmd/headgate-kube && go list -deps ./... >/dev/null # its module goes with this one's
	@.ci/govulncheck

staticcheck:
	@go build -modfile=.ci/tools/go.mod -o bin/ honnef.co/go/tools/cmd/staticcheck

bench: bench-packages build
	@echo "left out: target: kubernetes with a real control plane; make bench-kubernetes has it"
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./e2e/bench ./reconciler/target/function \
		./reconciler/target/services ./reconciler/target/services/proxy ./hooks/build/... ./hooks/forge ./gitd/repo
	go test -run '^$$' -bench Decision -benchtime 2s ./policies

# Everything that people do, for hours: what must not grow, and by how much it does.
SOAK ?= 2h

soak: bench-packages build
	go test -run '^$$' -bench Soak -benchtime 1x -timeout 0 ./e2e/bench -soak $(SOAK)

# The budget worth watching: binary, modules, cold build time.
size: build
	@.ci/size

run-packages:
	@.ci/packages $(RUN_PACKAGES)

race-packages:
	@.ci/packages $(RACE_PACKAGES)

test-packages:
	@.ci/packages $(TEST_PACKAGES)

bench-packages:
	@.ci/packages $(BENCH_PACKAGES)

clean:
	rm -rf bin
