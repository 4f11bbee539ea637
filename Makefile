# Everything runs in .venv, which is made when it is needed. `make run` and `make test` are all a newcomer needs.
# A target is listed by `make help` if a comment with ## follows it.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
FUZZ_SECONDS ?= 60
TESTS := -n auto --dist loadgroup --ignore tests/e2e/aws --ignore tests/ui
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test test-aws test-ui test-all ui test-pythons recipes check check-imports check-commits docs coverage \
	format lock audit sbom fuzz fuzz-controls bench matrix clean

help:                               ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.core                    ## compile, draw and run examples/quickstart.yaml
	$(BIN)/noetl plan examples/quickstart.yaml
	$(BIN)/noetl run examples/quickstart.yaml

test: .venv/.dev                    ## run every test, except those of test-aws and test-ui
ifdef COVERAGE # CI: some of these tests measure what `make coverage` reports
	$(BIN)/python -m noetl.infra.coverage_report --then-others $(TESTS)
else
	$(BIN)/pytest $(TESTS)
endif

test-aws: .venv/.dev                ## build and deploy the service to an emulator of AWS, and test it
	$(BIN)/pytest tests/e2e/aws

test-all: test test-ui test-aws     ## run test, test-ui and test-aws

test-ui: .venv/.dev                 ## test the page in the Chromium of this machine; needs Node.js, too
	$(BIN)/pytest -n auto --dist loadgroup tests/ui

ui: .venv/.core                     ## check the sources of the page, and make what browsers load; needs Node.js
	$(BIN)/python -m noetl.infra.ui

recipes: .venv/.dev                 ## perform the recipes of CONTRIBUTING.md in a scratch clone
	$(BIN)/python -m tests.recipes

test-pythons: .venv/.dev            ## run part of the tests on other Pythons, and with the lowest versions
	$(BIN)/nox

check: .venv/.dev                   ## check format, lint, types, imports between packages, and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory check-imports
	$(if $(WITHOUT_TESTS),,$(BIN)/pytest -n auto -q tests/style)

check-imports: .venv/.dev           ## check only which package imports which
	cd .venv/src && ../bin/lint-imports ../../pyproject.toml

check-commits: .venv/.made          ## check the subjects of the commits
	$(BIN)/python tests/style/commit_messages.py history

docs: .venv/.dev                    ## build the documentation site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: .venv/.dev                  ## format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: .venv/.dev                ## measure the branch coverage of the compiler and the pure executor
	$(BIN)/python -m noetl.infra.coverage_report

audit: .venv/.dev                   ## compare the locked packages with the known vulnerabilities
	$(BIN)/nox -s audit

sbom: .venv/.dev                    ## write what each package of AWS consists of (CycloneDX) into build/sbom
	$(BIN)/nox -s sbom

fuzz: .venv/.dev                    ## feed mutated input to compiler and service, FUZZ_SECONDS=60 for each target
	$(BIN)/nox -s fuzz -- --seconds $(FUZZ_SECONDS)

fuzz-controls: .venv/.dev           ## show that fuzzing finds each planted fault
	$(BIN)/nox -s fuzz -- --planted

lock: .venv/.dev                    ## write requirements/ from pyproject.toml; LOCK=--upgrade takes new versions
	$(BIN)/nox -s lock -- $(LOCK)

bench: .venv/.dev                   ## run the benchmarks; write a table and benchmarks/results.json
	$(BIN)/python -m benchmarks

matrix: .venv/.dev                  ## inject every fault at every call of a corpus, on every store; print a table
	$(BIN)/python -m tests.simulation

clean:                              ## remove what these commands have made
	rm -rf .venv .nox .noetl .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info

.venv/.made: infra/environment.py
	@test -n "$(PYTHON)" || { echo "noetl needs Python 3.11 or newer on the PATH."; exit 1; }
	$(PYTHON) infra/environment.py .venv
	@touch $@

.venv/.hook: .venv/.made tests/style/commit_messages.py
	@$(BIN)/python tests/style/commit_messages.py install
	@touch $@

.venv/.core: .venv/.made pyproject.toml setup.py | .venv/.hook
	$(INSTALL) --editable .
	@touch $@

.venv/.dev: .venv/.made requirements/dev.txt pyproject.toml setup.py | .venv/.hook
	@# uv installs the tools in seconds, pip in a minute. So pip installs uv, also with the locked hash.
	@awk '/^[^ ]/ { is_uv = /^uv==/ } is_uv' requirements/dev.txt >.venv/uv.txt
	$(INSTALL) --requirement .venv/uv.txt
	UV_NATIVE_TLS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements/dev.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@# mypy and import-linter follow no extended __path__: there `noetl` leads to this folder.
	@mkdir -p .venv/src && ln -sfn ../.. .venv/src/noetl
	@touch $@ .venv/.core
