# Everything a checkout needs.  `make run` and `make test` set themselves up: the first use makes a
# virtualenv and installs into it, later ones start at once (a stamp file per set of packages).

VENV     ?= .venv
DATA_DIR ?= data
PORT     ?= 8041
METRICS  ?= 2000
WORKERS  ?= 2
RUN_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PACKAGING := setup.cfg setup.py requirements.txt pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help run test keystone swift debian telegraf lint docs bench clean

help:
	@echo "make run    start Gnocchi here: API on port $(PORT), data in ./$(DATA_DIR)   (PORT=, DATA_DIR=, RUN_ARGS=)"
	@echo "make test   run the whole test suite on $(WORKERS) processes                (WORKERS=, PYTEST_ARGS=)"
	@echo "make keystone swift telegraf   install what tests can start; without them they are skipped"
	@echo "make lint   ruff and mypy"
	@echo "make docs   build the documents into doc/build/html; warnings are errors"
	@echo "make bench  black-box and micro-benchmarks, with the budgets         (METRICS=20000, BENCH_ARGS=)"
	@echo "make clean  remove what was built; data and $(VENV) stay"

run: $(VENV)/.stamp-run
	@exec $(BIN)/gnocchi-standalone --data-dir $(DATA_DIR) --port $(PORT) $(RUN_ARGS)

# A file of tests stays on one process: its servers are started once.  Where none may be missing, Keystone and Swift are
# installed too; their tests are skipped otherwise.
test: $(VENV)/.stamp-test debian $(if $(GNOCCHI_TEST_REQUIRE_BACKENDS),$(VENV)/keystone/.stamp $(VENV)/swift/.stamp)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.stamp-doc
	$(BIN)/reno --quiet lint
	$(BIN)/sphinx-build -W --keep-going -q -b html doc/source doc/build/html
	@echo "doc/build/html/index.html"

bench: $(VENV)/.stamp-test
	@set -e; for script in $(sort $(wildcard bench/bench_*.py)) bench/aggregates.py bench/ingest.py; do \
	    echo "== $$script"; $(BIN)/python $$script; done
	$(BIN)/python bench/blackbox.py --bin $(BIN) --metrics $(METRICS) $(BENCH_ARGS)

clean:
	rm -rf build dist doc/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find gnocchi bench doc examples -name __pycache__ -type d -prune -exec rm -rf {} +

# -- installation ------------------------------------------------------------------------------

$(VENV)/.stamp-run: $(BIN)/python $(PACKAGING)
	@echo "Installing Gnocchi into $(VENV)"
	@$(PIP) install -e '.[prometheus,otlp]'    # all protocols of agents, for they are small
	@touch $@

$(VENV)/.stamp-%: $(BIN)/python $(PACKAGING)
	@echo "Installing Gnocchi with what '$*' needs into $(VENV)"
	@$(PIP) install -e '.[$*]'
	@touch $@ $(VENV)/.stamp-run    # every set holds what is needed to run

# Servers for tests to start.  Apart, because they bring eventlet, which a library of tooz imports wherever it finds it.
packages_keystone := 'keystone>=27' 'waitress>=3'
packages_swift := 'swift>=2.33'

$(VENV)/keystone/.stamp $(VENV)/swift/.stamp: $(VENV)/%/.stamp: $(BIN)/python
	@echo "Installing a server for tests into $(VENV)/$*"
	@$(BIN)/python -m venv --clear --without-pip $(VENV)/$*
	@$(PIP) --python $(VENV)/$*/bin/python install --no-compile $(packages_$*)
	@touch $@

keystone swift: %: $(VENV)/%/.stamp

# Debian's modules of Ceph, for PyPI has none, and of AMQP, which PyPI has as source only; a Python that they were not
# built for does not see them.
DEBIAN_MODULES := rados.*.so proton cproton.py _cproton.*.so

debian: $(BIN)/python
	@cd /usr/lib/python3/dist-packages 2>/dev/null || exit 0; for module in $(DEBIAN_MODULES); do \
	    if [ -e "$$module" ]; then ln -sfn "$$PWD/$$module" \
	        "$$($(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/$$module"; fi; done

# Telegraf, which Debian does not have, for the test that runs it if it is there.
TELEGRAF_URL := http://archive.ubuntu.com/ubuntu/pool/universe/t/telegraf/telegraf_1.21.4+ds1-0ubuntu2_amd64.deb
TELEGRAF_SHA256 := f30b420ae1325d2d3f3ae90bce6a5e045d4dd14fcd83f555f17bd63c4aa9289c

telegraf: $(BIN)/telegraf

$(BIN)/telegraf: $(BIN)/python
	@package=$$(mktemp) && trap 'rm -f "$$package"' EXIT && $(BIN)/python -c \
	    'import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=60).read())' \
	    '$(TELEGRAF_URL)' >"$$package" && echo "$(TELEGRAF_SHA256)  $$package" | sha256sum --check --quiet && \
	    dpkg-deb --fsys-tarfile "$$package" | tar -x -O ./usr/bin/telegraf >$@.new && chmod +x $@.new && mv $@.new $@

# Made anew also when its interpreter is gone: for make a dangling link is a missing file.
$(BIN)/python:
	@python=; for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	echo "Making the virtualenv $(VENV) with $$python"; \
	"$$python" -m venv --clear $(VENV) >$(VENV).log 2>&1 || \
	"$$python" -m virtualenv --clear $(VENV) >>$(VENV).log 2>&1 || { \
	    cat $(VENV).log >&2; rm -rf $(VENV) $(VENV).log; \
	    echo "Cannot make a virtualenv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	rm -f $(VENV).log
