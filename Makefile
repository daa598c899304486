# Two commands to know: `make demo` (everything, from nothing) and `make test`.
PYTHON_VERSION := 3.11
# CUDA build of vLLM where an NVIDIA GPU answers, CPU build where not; ENGINE=cpu or ENGINE=cuda decides otherwise.
ENGINE ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo cuda || echo cpu)
BASE ?= gemma-3-270m
# Files of tests that mostly wait run side by side, in order, the slowest first; those on real vLLM, which takes every core, come after them, alone.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder tests/integration tests/fuzz tests/contract tests/unit

UV := .tools/bin/uv
PY := .venv/bin/python
STAMP := .venv/.installed-$(ENGINE)
# PyTorch's CPU build is on no general registry: from a folder of wheels where PIP_FIND_LINKS names one, else uv's own knowledge of where it lies.
TORCH := $(if $(filter cpu,$(ENGINE)),$(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu))

.PHONY: demo serve install unit test test-all soak debian check format lock images clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

demo: install ## From nothing to a company's own model answering over REST (BASE=<catalog id> for another base)
	@$(PY) -m sumika.cli.main demo --base $(BASE)

serve: install ## Start the gateway and the engines, without the show
	@exec $(PY) -m sumika.cli.main up

install: $(STAMP) ## Install everything into .venv, by hash, from constraints/

$(UV): constraints/tools.txt
	@echo "› installing uv and hatchling, by hash, into .tools"
	@python3 -m venv .tools
	@.tools/bin/python -m pip install --quiet --only-binary :all: --require-hashes --requirement constraints/tools.txt
	@touch $@

$(STAMP): pyproject.toml constraints/$(ENGINE).txt | $(UV)
	@echo "› installing Sumika with the $(ENGINE) build of vLLM (about 4 GB for cpu, 12 GB for cuda)"
	@test -x $(PY) || $(UV) venv --quiet --python $(PYTHON_VERSION) .venv
	@$(UV) pip sync --python $(PY) --require-hashes $(TORCH) constraints/$(ENGINE).txt
	@$(UV) pip install --quiet --python $(PY) --no-deps --build-constraints constraints/tools.txt --editable .
	@rm -f .venv/.installed-*; touch $@

# Debian's own programs, which the tests drive: Chromium for the console (with a font for the Japanese in its screenshots), Caddy, Compose and
# systemd's and Kubernetes' tools for what deploy/ and 'sumika install' write, Prometheus for what is measured, bubblewrap for the sandbox of engines.
DEBIAN := chromium=chromium caddy=caddy docker-compose=docker-compose systemd-analyze=systemd prometheus=prometheus kubectl=kubernetes-client bwrap=bubblewrap

debian:
	@missing=""; for pair in $(DEBIAN); do command -v $${pair%%=*} >/dev/null || missing="$$missing $${pair##*=}"; done; \
	  test -z "$$missing" || { case "$$missing" in *chromium*) missing="$$missing fonts-noto-cjk";; esac; \
	    test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } \
	  || { echo "The tests need these Debian packages: apt-get install$$missing"; exit 1; }

unit: install ## Unit and contract tests: what a change to one file could break, in a minute or two
	@$(PY) -m pytest -n 2 tests/unit tests/contract

test: install debian ## What CI runs: unit, contract, integration, fuzz, and end to end on real vLLM (ARGS= for some of it)
	@$(if $(ARGS),$(PY) -m pytest $(ARGS),$(PY) -m pytest --durations=40 $(SIDE_BY_SIDE) && $(PY) -m pytest --durations=10 tests/e2e)

test-all: install debian ## The same and what proves it once more: both shardings, a hundred adapters
	@SUMIKA_TEST_ADAPTERS=100 $(PY) -m pytest -m 'not soak' $(SIDE_BY_SIDE) && SUMIKA_TEST_ADAPTERS=100 $(PY) -m pytest -m 'not soak' tests/e2e

# Minutes of mixed load with swaps and kills; hostile requests after it.
MINUTES ?= 30
REQUESTS ?= 50000

soak: install ## Half an hour of load, swaps and kills, 50,000 hostile requests, 10,000 accounted for (MINUTES=, REQUESTS=)
	@SUMIKA_TEST_SOAK_MINUTES=$(MINUTES) $(PY) -m pytest -m soak tests/soak -s
	@SUMIKA_TEST_FUZZ_REQUESTS=$(REQUESTS) $(PY) -m pytest tests/fuzz
	@SUMIKA_TEST_USAGE_REQUESTS=10000 $(PY) -m pytest tests/integration/test_usage.py -k under_kill

check: install ## ruff, mypy --strict, import rules
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

format: install ## Mend what ruff can mend
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

lock: $(UV) ## Resolve constraints/ again from pyproject.toml
	@$(UV) pip compile --quiet constraints/tools.in --universal --python-version $(PYTHON_VERSION) --generate-hashes --no-annotate --no-header \
	  --output-file constraints/tools.txt
	@$(UV) pip compile --quiet pyproject.toml --extra cpu --extra finetune --extra test --override constraints/overrides.txt \
	  $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu) --python-version $(PYTHON_VERSION) --python-platform x86_64-manylinux_2_31 \
	  --generate-hashes --no-annotate --no-header --output-file constraints/cpu.txt
	@$(UV) pip compile --quiet pyproject.toml --extra cuda --extra finetune --extra test --python-version $(PYTHON_VERSION) \
	  --python-platform x86_64-manylinux_2_31 --generate-hashes --no-annotate --no-header --output-file constraints/cuda.txt

images: ## Pin the container images: ask the registries for their digests (needs docker), and write them into deploy/ and the compose file
	@python3 deploy/images.py

clean: ## Remove the environment and caches; weights and data under var/ stay
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache
