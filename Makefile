# What there is to do with evb; `make` alone lists it. On Debian every target installs what it misses.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(HOME)/.cargo/bin:$(PATH)

# The directory of kernels and guest images.
export EVB_LAB ?= $(CURDIR)/target/lab
# Checks to run with `make e2e`: words in their names, as in K="migration hotplug".
K ?=
# The network of `make network`.
N ?=
# Targets of `make fuzz`, and seconds for each.
T ?= config frames rings messages
S ?= 225
# Tests of `make tsan`, as `cargo test` is told them.
TSAN ?= --lib -- --skip sigbus --skip worker::tests::patience
# Relays of the long run against the model, each with some 700 frames.
RELAYS ?= 3000
# UPDATE=1 writes the table of `make instructions` anew.
UPDATE ?=
# After how long `make bench` begins nothing more; the next one goes on from there.
MINUTES ?= 14

.PHONY: help build demo test e2e format lint unit long docs licenses smoke networks network instructions microbench bench fuzz tsan images host-image rust clean

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: rust ## the release build, target/release/evb
	@cargo build --release --locked

demo: images build ## two guests under QEMU talk, and one migrates: about a minute
	@python3 -m lab demo

test: format lint unit long docs licenses smoke networks ## everything that CI runs

e2e: host-image build ## every check with guests; K="words" picks those whose names contain one
	@python3 -m lab e2e $(addprefix -k ,$(K))

format: rust ## is the code formatted?
	@cargo fmt --check

lint: rust ## clippy, warnings are errors
	@cargo clippy --all-targets --locked --quiet -- -D warnings

unit: rust ## the tests that need no guest; some need root, and say where they were skipped
	@((EUID)) || lab/deps.sh networks
	@cargo test --locked --quiet
	@cargo test --locked --quiet --test scale -- --ignored

long: rust ## two million random frames against the model of a relay, in a minute
	@EVB_MODEL_RELAYS=$(RELAYS) cargo test --locked --quiet --lib relay::tests::random

docs: rust ## the API documentation, warnings are errors
	@RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --no-deps --document-private-items --locked --quiet

licenses: rust ## licences and sources of the dependencies
	@if cargo deny --version > /dev/null 2>&1; then cargo deny --log-level error check licenses bans sources; \
	else echo 'SKIPPED licences: cargo install --locked cargo-deny'; fi

smoke: images build ## the quicker half of the checks with guests
	@python3 -m lab smoke

networks: build ## the reference networks without guests, about a minute; needs root
	@((EUID)) || lab/deps.sh networks
	@python3 -m lab networks

network: build ## brings up a reference network to log in to, N=B_V1; without N lists them
	@lab/deps.sh networks
	@python3 -m lab network $(if $(N),up $(N),list)

instructions: rust ## instructions of a frame on its way through the worker, against benches/instructions.toml
	@lab/deps.sh valgrind
	@cargo bench --locked --quiet --bench frame_path -- instructions $(if $(UPDATE),--update)

microbench: rust ## times of a frame in the worker, of its parts, by the size of a relay, and with a second worker
	@cargo bench --locked --bench frame_path --bench parts --bench relay --bench scaling

bench: build ## beside Open vSwitch with DPDK and others, a quarter of an hour; needs root. K="words" picks cases, MINUTES=3
	@lab/deps.sh bench
	@cargo build --release --locked --example stock
	@python3 -m benches.side_by_side --minutes $(MINUTES) $(if $(K),--only '$(K)')

fuzz: rust ## a quarter of an hour of arbitrary input; T="config" picks a target, S=60 its seconds
	@cargo fuzz --version > /dev/null 2>&1 || cargo install --locked cargo-fuzz
	@cd fuzz && for target in $(T); do cargo fuzz run -s none $$target -- -max_total_time=$(S); done

# The compiler has the sanitizer and calls it unstable, which RUSTC_BOOTSTRAP=1 accepts. See docs/testing.md.
tsan: ## tests of what several threads do under ThreadSanitizer; TSAN="--test moves" picks others
	@lab/deps.sh tsan
	@rm -rf target/tsan/reports; mkdir -p target/tsan/reports
	@failed=0; RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread CARGO_PROFILE_TEST_OPT_LEVEL=1 \
	TSAN_OPTIONS='log_path=$(CURDIR)/target/tsan/reports/of history_size=4 exitcode=0' \
	cargo test --locked -Zbuild-std --target x86_64-unknown-linux-gnu --target-dir target/tsan --no-fail-fast \
	  $(TSAN) || failed=1; \
	if compgen -G 'target/tsan/reports/*' > /dev/null; then cat target/tsan/reports/*; failed=1; fi; exit $$failed

images: ## the guests' kernel and images, in target/lab
	@lab/deps.sh lab
	@lab/images.sh $(EVB_LAB)

host-image: images
	@lab/images.sh $(EVB_LAB) host

rust:
	@lab/deps.sh rust

clean: ## remove everything that was built
	@rm -rf target $(EVB_LAB)
