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

.PHONY: setup run build test matrix bench lint static install deb rpm reproduce try-packages format

run: setup build
	$(call say,$(TOOL) on this kernel: $(SUDO) $(KSCOPE) $(TOOL) $(ARGS))
	@$(SUDO) $(KSCOPE) $(TOOL) $(ARGS)

setup:
	$(call say,build packages: clang >= 16 and clang-format libelf zlib pkg-config cc)
	@packaging/build-packages $(SUDO)

build:
	$(call say,build: the release of the kscope command)
	cargo build --locked --release --features multicall --bin kscope

test: setup lint build
	$(call say,unit tests)
	cargo test --locked --workspace --exclude kscope-tests --bins --lib --features multicall
	@packaging/promtool target/promtool $(SUDO)
	$(call say,behaviour tests on this kernel: each tool against an oracle)
	$(if $(SUDO),CARGO_TARGET_$(shell echo $(TARGET) | tr 'a-z-' 'A-Z_')_RUNNER="$(SUDO)") cargo test --locked -p kscope-tests --tests --no-fail-fast

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
	$(call say,packages for Fedora and RHEL)
	packaging/rpm target/$(TARGET)/release/kscope target/packages

# Whether two builds in two folders give the same files.
reproduce: setup
	$(call say,reproduce: the static file and the packages, built twice)
	packaging/reproduce

try-packages: deb rpm
	$(call say,install, use and remove the packages in clean roots)
	$(SUDO) packaging/try target/packages
