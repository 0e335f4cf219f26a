# make demo   environment, build, then the main job: train on real digits, torch.nn beside torchbp.nn
# make test   environment, build, the whole test suite
# make sanitize  an instrumented build under random arguments: memory errors, undefined behaviour; EXAMPLES=... of each
# make bench  environment, build, then every layer and network timed beside the built-in: docs/performance.md
# make conformance  every case that PyTorch keeps for a module or function, ours or not: docs/conformance.md
# make models  models of other packages, converted: docs/real-models.md
# make quick  the quick part of the suite;  make lint  all linters;  make clean  remove what was built
#
# PYTHON=...  the interpreter to build the environment from (3.10 or newer); TORCH=...  the torch to install.

TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo $$p && break; done)
PIP    := $(BIN)/python -m pip --disable-pip-version-check
SOURCE := setup.py pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h') torchbp/ops/schemas.def
# One worker per core, and one thread in each: tests of threading set their own numbers.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: demo test quick bench conformance models sanitize lint format build clean

demo: build
	$(BIN)/torchbp train

test: build
	$(PYTEST) tests

quick: build
	$(PYTEST) tests -m "not slow"

# Built apart, in build/sanitized; the sanitizer must be in the process before Python is,
# and the C++ library with it, whose exceptions it intercepts.
EXAMPLES  ?= 40
SANITIZED := build/sanitized
SANITIZER  = env LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096:abort_on_error=0 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONPATH=$(SANITIZED) OMP_NUM_THREADS=1
CAPABILITY := import torch; best = torch.backends.cpu.get_cpu_capability().lower(); \
	print(*dict.fromkeys(["default", *["avx2"] * (best == "avx512"), best]))

sanitize: build
	TORCHBP_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp $(SANITIZED)/temp
	for capability in $$($(BIN)/python -c '$(CAPABILITY)'); do \
		$(SANITIZER) ATEN_CPU_CAPABILITY=$$capability \
			$(BIN)/python tests/fuzz_operators.py --require-sanitizer --examples $(EXAMPLES) || exit 1; \
	done

bench: build
	@mkdir -p build
	$(BIN)/torchbp bench --json build/bench.json --docs docs/performance.md

conformance: build
	OMP_NUM_THREADS=1 $(BIN)/python tests/conformance_page.py

models: build
	OMP_NUM_THREADS=1 $(BIN)/python tests/real_models_page.py

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.cpp' -o -name '*.h')

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc -name '*.cpp' -o -name '*.h')

build: $(VENV)/.built

# torch first and pinned, then the extension against it, without isolation.
$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "torchbp needs Python 3.10 or newer; none was found. Install one, or: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) install --quiet "$(TORCH)" numpy
	@touch $@

$(VENV)/.built: $(VENV)/.torch $(SOURCE)
	@$${CXX:-c++} --version >/dev/null 2>&1 || test "$$TORCHBP_BUILD_EXTENSION" = 0 || { echo "torchbp needs a C++ compiler ($${CXX:-c++} does not run). Install g++ or clang++ (Debian: apt-get install g++), or build without kernels: make TORCHBP_BUILD_EXTENSION=0 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PIP) install --quiet setuptools wheel pybind11 ninja
	$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info torchbp/*.so
