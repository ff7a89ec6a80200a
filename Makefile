# The project's verbs. The environment lives in .venv and is made when first needed; nothing outside this folder is written.
PYTHON ?= python3
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
NATIVE := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu)
TRITON_CACHE_DIR ?= $(CURDIR)/build/triton
export TRITON_CACHE_DIR

.PHONY: help demo test lint bench figures sanitize gpu-check gpu-registers clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train two small models, watch bias grow, draw demo/curves.png (ARGS='--scale tiny --seed 1 --control fresh')"
	@echo "make test       every test (ARGS='-k knn' for some)"
	@echo "make lint       ruff, clang-format, codespell"
	@echo "make bench      kernels against what an expert would write, with the gates asserted (ARGS=--smoke: small sizes, no gates)"
	@echo "make figures    the studies of size, power, peers, errors and the paper's code, about an hour: docs/studies"
	@echo "make sanitize   the native kernels under ASan, UBSan and valgrind; what their objects show the linker"
	@echo "make gpu-check  on a machine with a GPU: builds, proves and measures every kernel in 8 minutes (ARGS=--resume goes on, --plan)"
	@echo "make gpu-registers  compiles every GPU kernel and writes docs/gpu_registers.md"
	@echo "make clean      remove what the others made"

demo: $(READY)
	$(VENV)/bin/biasgen demo $(ARGS)

test: $(READY)
	OMP_WAIT_POLICY=passive BIASGEN_REQUIRE_BACKENDS="$${BIASGEN_REQUIRE_BACKENDS:-cpu,torch}" $(PY) -m pytest $(ARGS)

bench: $(READY)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(PY) -m pytest benchmarks -s $(ARGS)

figures: $(READY)
	for study in null dose demo peers tree_errors floor paper; do $(PY) -m benchmarks.studies.$$study || exit 1; done

# With the Python that has torch for the GPU; nothing is installed but into build/.
gpu-check:
	$(PYTHON) -m benchmarks.gpu.check $(ARGS)

gpu-registers: $(READY)
	$(PY) -m benchmarks.gpu.registers

lint: $(READY)
	$(PY) -m pip install -q -c constraints.txt --group lint
	$(VENV)/bin/ruff check .
	git ls-files -z 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' | xargs -0 $(VENV)/bin/clang-format --dry-run -Werror
	git ls-files -z | xargs -0 $(VENV)/bin/codespell

sanitize: $(READY)
	sh csrc/tests/sanitize.sh $(PY)

clean:
	rm -rf $(VENV) build demo

# An editable install: Python sources are used where they lie, native ones are rebuilt here when they change.
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "biasgen wants Python >= 3.11; name one: make PYTHON=python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no virtual environment: install the package python3-venv"; exit 1; }
	@$(PY) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	  || { echo "no Python headers: install the package python3-dev"; exit 1; }
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -q -c constraints.txt -e '.[report,test,bench,gpu]'
	@touch $(READY)
