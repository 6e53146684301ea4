# fcn-serve. Needs Python 3.11 or later and make; everything else goes into .venv. `make help` lists the targets.
#
# .venv is built from the lock files in deploy/locks, and rebuilt when they change:
#   .venv/.serve   the serving set (no torch)              deploy/locks/serve.txt
#   .venv/.dev     the development set on top, torch too   deploy/locks/dev.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

# The first interpreter that runs and is new enough. Another one: make install PYTHON=/opt/python/bin/python3.12
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# Where `make run` listens.
PORT ?= 8000
# What `make image` builds: cpu or cuda.
VARIANT ?= cpu
# More words for the command that a target runs, e.g. make test ARGS='-k png', make train ARGS=--help
ARGS ?=

# ONNX Runtime reports to its maker unless it is told not to before it starts.
export ORT_DISABLE_TELEMETRY := 1

VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/locks
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL = $(PIP) install --no-input
# The one tool that is not in a lock file: it writes them.
UV := uv==0.13.9

.PHONY: help run install test slow cluster soak fuzz check format docs bench bench-peers coverage train evaluate export wheel image lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-11s %s\n' "$$name" "$$what"; done

run: $(VENV)/.serve $(VENV)/.labels ## serve on 127.0.0.1:PORT, send one sample street, show what was found; Ctrl-C ends it
	@exec $(BIN)/python deploy/run_sample.py --port $(PORT)

install: $(VENV)/.dev ## .venv with the product and all that its development needs

# Two processes, each test file in one of them. For one process: make test ARGS='--numprocesses 0 -k png'
test: $(VENV)/.dev ## the test suite, minutes
	$(BIN)/python -m pytest -m 'not slow and not cluster' --numprocesses 2 --dist loadfile $(ARGS)

slow: $(VENV)/.dev ## what takes longer: full-size networks, 4K scenes, 20,000 mutated images
	$(BIN)/python -m pytest -m slow $(ARGS)

cluster: $(VENV)/.dev ## Ray: killed workers and machines, replicas, updates, overload; needs the right to make network namespaces
	$(BIN)/python -m pytest -m cluster $(ARGS)

soak: $(VENV)/.dev ## ten minutes of everything at once; ARGS='--minutes 2' for less
	$(BIN)/python benchmarks/soak.py $(ARGS)

fuzz: $(VENV)/.dev ## search for bytes that break a parser or the server; ARGS='--seconds 10 --requests 1000' for less
	$(BIN)/python -m fuzz $(ARGS)

check: $(VENV)/.dev ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_architecture.py tests/test_packaging.py

format: $(VENV)/.dev ## format the code and sort its imports
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## build the documentation site into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build $(ARGS)

bench: $(VENV)/.dev ## how much of a request is the network itself, less than five minutes; needs wrk
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-peers: $(VENV)/.dev ## the same model behind other servers, some minutes; needs wrk and, for .venv-peers, Python 3.11
	$(BIN)/python benchmarks/bench_peers.py $(ARGS)

# The report comes even if a test fails; the exit code is then that of the tests.
coverage: $(VENV)/.dev ## the test suite with branch coverage
	$(BIN)/coverage erase
	tests=0; $(BIN)/coverage run -m pytest -m 'not slow and not cluster' $(ARGS) || tests=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$tests

train: $(VENV)/.dev ## train a network: python -m models.train ARGS
	$(BIN)/python -m models.train $(ARGS)

evaluate: $(VENV)/.dev ## score an artifact or a checkpoint: python -m models.evaluate ARGS
	$(BIN)/python -m models.evaluate $(ARGS)

export: $(VENV)/.dev ## turn a checkpoint into an artifact: python -m models.export ARGS
	$(BIN)/python -m models.export $(ARGS)

wheel: $(VENV)/.dev ## build the wheel and try it in empty environments; ARGS='--python /path/to/python3.13'
	$(BIN)/python deploy/try_wheel.py $(ARGS)

image: ## build the container image fcn-serve:VARIANT
	docker build --build-arg VARIANT=$(VARIANT) --tag fcn-serve:$(VARIANT) $(ARGS) .

# Versions that are already locked stay unless they no longer fit; `make lock ARGS=--upgrade` takes the newest.
# The development set carries no hashes, because torch's file differs from machine to machine, and no device libraries,
# because torch itself asks for those that its build needs.
COMPILE = .venv-lock/bin/uv pip compile pyproject.toml --quiet --universal --fork-strategy fewest --no-python-downloads \
	--custom-compile-command 'make lock' $(ARGS)
lock: .venv-lock/bin/uv ## rewrite the lock files from pyproject.toml
	$(COMPILE) --generate-hashes --output-file $(LOCKS)/serve.txt --extra serve
	$(COMPILE) --generate-hashes --output-file $(LOCKS)/serve-cuda.txt --constraint $(LOCKS)/serve.txt \
		--extra serve --group cuda --no-emit-package onnxruntime
	$(COMPILE) --annotation-style line --output-file $(LOCKS)/dev.txt --constraint $(LOCKS)/serve.txt \
		--all-extras --group dev --group docs
	sed -i.bak -E '/^(nvidia-|cuda-|triton==)/d' $(LOCKS)/dev.txt && rm $(LOCKS)/dev.txt.bak
	$(COMPILE) --generate-hashes --output-file $(LOCKS)/grpc.txt --constraint $(LOCKS)/dev.txt --extra grpc

clean: ## remove what the targets made, .venv too
	rm -rf $(VENV) .venv-lock .venv-peers out build dist site htmlcov .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		service/pipeline/tasks/labels-*.so
	find service models tests fuzz benchmarks deploy -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.serve: $(LOCKS)/serve.txt
	@test -n '$(PYTHON)' || { echo 'make: no Python 3.11 or later was found; name one with PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'making $(VENV) with the serving set'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --require-hashes --only-binary :all: --requirement $(LOCKS)/serve.txt
	@touch $@

# labels.c, objects.c and planes.c; without a compiler the service is complete, and slower.
$(VENV)/.labels: service/pipeline/tasks/labels.c service/pipeline/tasks/objects.c service/pipeline/tasks/planes.c service/pipeline/tasks/compiled.py | $(VENV)/.serve
	@$(BIN)/python -P service/pipeline/tasks/compiled.py || true
	@touch $@

$(VENV)/.dev: $(VENV)/.serve $(LOCKS)/dev.txt $(LOCKS)/alone.txt pyproject.toml | $(VENV)/.labels
	@echo 'adding the development set to $(VENV)'
	@$(INSTALL) --requirement $(LOCKS)/dev.txt
	@$(INSTALL) --require-hashes --no-deps --requirement $(LOCKS)/alone.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-lock/bin/uv:
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install '$(UV)'
