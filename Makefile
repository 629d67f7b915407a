# make run     set everything up and start pocket on http://127.0.0.1:8080 (PORT=9000 for another port)
# make test    everything that needs no GPU: lint, types, imports, tests, and the page in a real Chromium
# make lint    the first three of these
# make bench   measure real-time factor and latency on this machine

PYTHON ?= python3
PORT ?= 8080
TORCH ?= torch==2.13.0
# PyTorch's own page of builds for CPUs, a tenth of the others' size; make run TORCH_INDEX= takes the usual one, for GPUs.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check --quiet
# What the tests need of the system, as "command or library = Debian package".
SYSTEM := chromium=chromium libEGL.so.1=libegl1 libGL.so.1=libgl1 libfontconfig.so.1=libfontconfig1 turnserver=coturn

.PHONY: run test lint bench system clean

run: .venv/installed
	$(BIN)/avatar-rtc serve --listen --port $(PORT)

# In a process more than there are cores; what computes gives way to what runs in real time (tests/conftest.py).
test: lint system tests/clients/node_modules/.package-lock.json
	$(BIN)/pytest -n auto --maxprocesses 4

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed-dev system
	$(BIN)/python -m benchmarks.rtf
	$(BIN)/python -m benchmarks.latency --engine pocket
	$(BIN)/python -m benchmarks.skew

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "installing $(TORCH) and the rest into .venv, once: 1.8 GB, of which PyTorch is 0.9; this takes some minutes"
	@# What PyTorch needs comes with the rest, so that its own page is asked for nothing else.
	@$(PIP) --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)"
	@$(PIP) --editable ".[listen]"
	@touch $@

.venv/installed-dev: .venv/installed
	@$(PIP) --editable ".[dev,train]"
	@touch $@

# The clients of others that are tested, as they publish them; npm comes with the development packages.
tests/clients/node_modules/.package-lock.json: tests/clients/package-lock.json .venv/installed-dev
	@$(BIN)/npm ci --prefix tests/clients --no-audit --no-fund --ignore-scripts
	@touch $@

# Installs what is missing where apt and root allow; without it the tests that need it are skipped.
system:
	@missing=; for pair in $(SYSTEM); do \
	  command -v "$${pair%=*}" >/dev/null || /sbin/ldconfig -p 2>/dev/null | grep -q "$${pair%=*}" || missing="$$missing $${pair#*=}"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $$missing; \
	else echo "not installed, so some tests are skipped:$$missing"; fi

clean:
	rm -rf .venv build *.egg-info
