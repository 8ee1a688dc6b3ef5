# The commands of the project. Each works from a fresh clone; `make help` lists them.

CARGO ?= cargo
# The demo's build: `dev` shares its work with the tests, `release` is for measuring.
PROFILE ?= dev
BINARY = target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/selvedge

.PHONY: help deps build demo check lint unit test fuzz bench bench-proxy

help:
	@echo 'make demo         install what is missing, build, start the planet in a box, push the examples'
	@echo 'make test         install what is missing, check, and run every test'
	@echo 'make check        format, lints, layers, licences and unit tests: what to run before a commit'
	@echo 'make fuzz         every parser before made-up inputs, as a part of make test'
	@echo 'make bench        time from git push to live at every site, over 20 pushes of two examples'
	@echo 'make bench-proxy  CPU time and memory of the proxy beside other proxies: docs/benchmarks.md'

deps:
	@scripts/install-deps.sh

build:
	$(CARGO) build --locked --profile $(PROFILE) -p selvedge

demo: deps build
	$(BINARY) demo

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) xtask tidy
	$(CARGO) xtask layering
	$(CARGO) xtask dependencies

# nextest runs unit tests in parallel across crates, where it is installed.
unit:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --locked --workspace --lib --bins; \
	else \
	  $(CARGO) test --locked --quiet --workspace --lib --bins; \
	fi

check: lint unit

test: deps lint
	$(CARGO) test --locked --workspace --no-fail-fast
	$(CARGO) xtask fuzz

# Longer: cargo xtask fuzz --executions 10000000 esi
fuzz: deps
	$(CARGO) xtask fuzz

bench: deps
	$(CARGO) build --locked --release -p selvedge
	$(CARGO) xtask bench push

# The load programs of our own are part of xtask, and are built to be quick too.
bench-proxy: deps
	$(CARGO) build --locked --release -p selvedge
	$(CARGO) run --locked --release --quiet -p xtask -- bench proxy
