# SPDX-License-Identifier: Apache-2.0 OR MIT
# `make run` and `make test` do all their set-up themselves, on Debian, Ubuntu and Fedora with Rust and make.

TOOL ?= sampleip
ARGS ?=
DESTDIR ?=
PREFIX ?= /usr/local

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
KSCOPE := target/release/kscope
TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# What is shipped does not depend on where and when it is built.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y packaging/changelog)
CARGO_FOLDER := $(or $(CARGO_HOME),$(HOME)/.cargo)
REMAP := --remap-path-prefix=$(CURDIR)=kscope --remap-path-prefix=$(CARGO_FOLDER)=cargo
STATIC_FLAGS := RUSTFLAGS="-C target-feature=+crt-static $(REMAP)" \
	CFLAGS="-ffile-prefix-map=$(CURDIR)=kscope -ffile-prefix-map=$(CARGO_FOLDER)=cargo"
# Archives of libelf and zlib for a static link.
LIBDIR := $(shell cc -print-multiarch 2>/dev/null | sed 's|.|/usr/lib/&|; s|^$$|/usr/lib64|')
BPF_SOURCES = $(shell find bpf tools -name '*.[ch]')

say = @printf '\n==> %s\n' "$(1)"

.PHONY: setup run build test check new matrix scale bench lint audit static install deb rpm reproduce try-packages \
	try-units fuzz format

run: setup build
	$(call say,$(TOOL) on this kernel: $(SUDO) $(KSCOPE) $(TOOL) $(ARGS))
	@$(SUDO) $(KSCOPE) $(TOOL) $(ARGS)

setup:
	$(call say,build packages: clang >= 16 and clang-format libelf zlib pkg-config cc c++)
	@packaging/build-packages $(SUDO)

build:
	$(call say,build: the release of the kscope command)
	cargo build --locked --release --features multicall --bin kscope

# The static file, where it can be made: the matrix needs it too.
TESTED = $(if $(wildcard $(LIBDIR)/libelf.a),target/$(TARGET)/release/kscope,$(KSCOPE))

test: setup lint
	@$(MAKE) --no-print-directory $(if $(filter $(KSCOPE),$(TESTED)),build,static)
	$(call say,unit tests)
	cargo test --locked --package kscope --package kscope-tools --lib --bin kscope --features multicall
	@packaging/promtool target/promtool $(SUDO)
	$(call say,behaviour tests on this kernel: each tool against an oracle)
	CARGO_TARGET_$(shell echo $(TARGET) | tr 'a-z-' 'A-Z_')_RUNNER="$(SUDO) env KSCOPE=$(CURDIR)/$(TESTED)" \
		cargo test --locked -p kscope-tests --tests --no-fail-fast
	$(call say,fuzzing: a minute in all)
	fuzz/run 8

# TOOL=opensnoop: that tool alone, in a debug build: its own tests, what every tool is held to, and what its programs cost.
TEST_RUNNER = CARGO_TARGET_$(shell echo $(TARGET) | tr 'a-z-' 'A-Z_')_RUNNER
check:
	@test -f tools/$(TOOL)/main.rs || { echo "make check: there is no tools/$(TOOL)" >&2; exit 2; }
	cargo build --locked --quiet --bin $(TOOL)
	cargo build --locked --quiet -p kscope-tests --bin workload
	$(TEST_RUNNER)="$(SUDO) env KSCOPE_ALONE=$(abspath $(or $(CARGO_TARGET_DIR),target))/debug/$(TOOL) \
		$(if $(KSCOPE_RECORD_COSTS),KSCOPE_RECORD_COSTS=1)" \
		cargo test --locked --quiet -p kscope-tests --tests --no-fail-fast -- $(TOOL)

# TOOL=statsnoop KIND=snoop: the room of a new tool, to be filled.
new:
	@docs/templates/new "$(TOOL)" "$(KIND)"

# What the tree would be with COUNT tools.
scale: static
	tests/scale/run --count $(or $(COUNT),120) --kscope target/$(TARGET)/release/kscope --target $(TARGET)

# Licences, sources and versions of what is linked: by cargo-deny, which this installs. No part of CI.
audit:
	@command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
	cargo deny --all-features check licenses sources bans

# SECONDS="3600": for so long each; TARGETS="elf btf": those alone.
fuzz: setup
	fuzz/run $(or $(SECONDS),600) $(TARGETS)

# KERNELS="host 5.10 6.12": those alone; SHORT=1: some tests of each tool, as .ci/run does;
# TOOLS="opensnoop": those alone; UPDATE_BUDGET=1: record what the verifier processes now.
matrix: static
	$(call say,setup: QEMU and what else the matrix needs)
	@tests/matrix/setup $(SUDO)
	$(call say,build: the behaviour tests as static files)
	@mkdir -p target/matrix
	LIBBPF_SYS_LIBRARY_PATH=$(LIBDIR) $(STATIC_FLAGS) CARGO_PROFILE_DEV_OPT_LEVEL=1 \
		cargo test --locked -p kscope-tests --features static --no-run --target $(TARGET) \
		--message-format json >target/matrix/tests.json
	$(call say,matrix: the behaviour tests on kernels: $(or $(KERNELS),all))
	@tests/matrix/run --kscope target/$(TARGET)/release/kscope --tests target/matrix/tests.json \
		$(if $(SHORT),--short) $(if $(UPDATE_BUDGET),--update-budget) \
		$(if $(TOOLS),--tools "$(TOOLS)") $(KERNELS)

# TOOLS="opensnoop biolatency": those alone, beside what was measured of the same build before.
bench: build
	$(call say,setup: libbpf-tools and bpftrace)
	@bench/setup $(SUDO)
	cargo build --locked --release -p kscope-tests --bin workload
	$(call say,bench: side by side with libbpf-tools and bpftrace)
	@$(SUDO) bench/run --kscope $(KSCOPE) --workload target/release/workload $(TOOLS)

# KERNELS="6.12": those alone.
try-units: deb
	@tests/matrix/setup $(SUDO)
	@command -v debootstrap >/dev/null || $(SUDO) apt-get install -q -y --no-install-recommends debootstrap
	$(call say,each tool as a unit of a real systemd, on kernels: $(or $(KERNELS),5.10 6.1 6.12 7))
	@$(SUDO) tests/units/run --packages target/packages $(KERNELS)

lint:
	$(call say,format)
	cargo fmt --all --check
	$$(packaging/build-packages --print clang-format) --dry-run -Werror $(BPF_SOURCES)
	$(call say,lint: Rust)
	cargo clippy --locked --workspace --all-targets --features multicall -- -D warnings
	$(call say,lint: the BPF programs compile for arm64 too)
	@packaging/check-bpf arm64

format:
	cargo fmt --all
	$$(packaging/build-packages --print clang-format) -i $(BPF_SOURCES)

static: setup
	$(call say,build: kscope as one fully static file)
	LIBBPF_SYS_LIBRARY_PATH=$(LIBDIR) $(STATIC_FLAGS) \
		cargo build --locked --release --features multicall,static --bin kscope --target $(TARGET)
	@ls -l target/$(TARGET)/release/kscope

install: build
	$(call say,install: kscope and what belongs to it below $(DESTDIR)$(PREFIX))
	packaging/stage $(KSCOPE) "$(DESTDIR)" $(PREFIX)

deb: static
	$(call say,packages for Debian and Ubuntu)
	packaging/deb target/$(TARGET)/release/kscope target/packages

rpm: static
	@command -v rpmbuild >/dev/null || $(SUDO) sh -c 'apt-get install -q -y --no-install-recommends rpm || dnf install -y rpm-build'
	$(call say,packages for Fedora and RHEL)
	packaging/rpm target/$(TARGET)/release/kscope target/packages

# Whether two builds in two folders give the same files.
reproduce: setup
	$(call say,reproduce: the static file and the packages, built twice)
	packaging/reproduce

try-packages: deb rpm
	$(call say,install, use and remove the packages in clean roots)
	$(SUDO) packaging/try target/packages
