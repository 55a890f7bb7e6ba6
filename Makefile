# Every target works on a fresh clone: what it needs, it makes first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TRITON := build/triton
RELEASE := build/release

# Small networks on small tensors: one thread a process and two processes beat two threads in one
# process, because a layer of a test is too small to be worth splitting.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest

.PHONY: setup tools demo notebook test check lint workflows format types docs slow gpu-code torch bench sdist wheel \
	wheels distributions clean
.DEFAULT_GOAL := check

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,report,dev,docs]'
	touch $@

# What some tests need beside `setup`: Chromium, a compiler and an emulator for ARM, IVON. Asks for root.
tools: $(STAMP)
	.ci/tools $(BIN)

demo: $(STAMP)
	$(BIN)/bitbayes demo

# Store what the cells of the notebook print and draw, after a change of a cell.
notebook: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebook.py examples/uncertainty.ipynb

test: $(STAMP)
	$(PYTEST) -q -n $(JOBS)

# One command checks everything; CI runs this one. The tests come last, so that their summary is
# the last thing on the screen, and in a recipe line of their own, so that -j cannot reorder them.
check: $(STAMP)
	$(MAKE) --no-print-directory lint workflows types docs
	$(MAKE) --no-print-directory test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Without a network; a checker that is missing is one line, because `make tools` brings both.
workflows:
	@PATH="$(abspath $(BIN)):$$PATH"; \
	for checker in "actionlint" "zizmor --offline --quiet --no-progress .github"; do \
		if ! command -v "$${checker%% *}" >/dev/null; then echo "not run: $${checker%% *} (make tools)"; \
		else $$checker || exit 1; fi; \
	done

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/basedpyright

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

slow: $(STAMP)
	$(PYTEST) -q -m slow

# The code that a GPU would run, in Triton's interpreter. Triton stays out of .venv, because torch for CPUs has none.
gpu-code: $(STAMP) $(TRITON)/.installed
	PYTHONPATH=$(TRITON) $(PYTEST) -q -m slow -n $(JOBS) tests/test_gpu_code.py

$(TRITON)/.installed: Makefile
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(TRITON) triton==3.7.1
	touch $@

# The tests with another torch, in an environment of its own: `make torch TORCH=2.15.0`. It is no part of `make check`,
# because what the package index has of torch usually brings gigabytes of libraries for GPUs.
torch:
	@test -n "$(TORCH)" || { echo "make torch needs a version, such as: make torch TORCH=2.15.0" >&2; exit 2; }
	$(PYTHON) -m venv build/torch-$(TORCH)
	grep -v '^torch==' constraints.txt >build/torch-$(TORCH)/constraints.txt
	build/torch-$(TORCH)/bin/python -m pip install --quiet -c build/torch-$(TORCH)/constraints.txt \
		'torch==$(TORCH)' -e '.[train,report,dev]'
	$(subst $(BIN),build/torch-$(TORCH)/bin,$(PYTEST)) -q -n $(JOBS) tests

bench: $(STAMP)
	$(BIN)/python benchmarks/step.py

# The files of a release, in dist/. `make sdist` makes the archive of the sources. `make wheel` makes a wheel from such an
# archive, with the kernels for every processor of the family of this machine, or of another family:
# `CC=aarch64-linux-gnu-gcc make wheel`. On Linux auditwheel names the oldest C library that will do; nothing else has to
# be in the wheel, so nothing is added to it. `make wheels` does the same in the containers that a release is made in.
sdist: $(RELEASE)/.installed
	$(RELEASE)/bin/python -m build --quiet --sdist --outdir dist

wheel: $(RELEASE)/.installed
	rm -rf $(RELEASE)/made
	BITBAYES_KERNELS=required $(RELEASE)/bin/python -m build --quiet --outdir $(RELEASE)/made
	mkdir -p dist
	if [ "$$(uname)" = Linux ]; then \
	  PATH=$(RELEASE)/bin:$$PATH auditwheel repair --only-plat --wheel-dir dist $(RELEASE)/made/*.whl; \
	else mv $(RELEASE)/made/*.whl dist; fi
	mv $(RELEASE)/made/*.tar.gz dist
	$(RELEASE)/bin/twine check --strict dist/*

wheels: $(RELEASE)/.installed
	CIBW_ARCHS=native $(RELEASE)/bin/cibuildwheel --output-dir dist

# Check dist/ before it is published: `make distributions TAG=v0.2.0`.
distributions: $(RELEASE)/.installed
	$(RELEASE)/bin/python .ci/distributions.py "$(TAG)" dist
	$(RELEASE)/bin/twine check --strict dist/*

$(RELEASE)/.installed: .ci/release.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet -r .ci/release.txt
	touch $@

clean:
	rm -rf site runs .pytest_cache .ruff_cache build dist
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
