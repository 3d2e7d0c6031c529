# make run     set up, then run the service on an embedded default (Ctrl-C stops it)
# make test    set up, then run the tests; TESTS="tests/storage -k name" runs some of them
# make test-all  the same, with what takes too long for every day
# make soak    set up, then break things at random under load; SOAK="--seconds 60 --seed 1" has options
# make bench   set up, then measure; BENCH="--quick" or BENCH="--help" for less, or more, of it
# make check   set up, then format check, lint and types
# make format  rewrite the code the way `make check` wants it
# make lock    pin the newest versions that pyproject.toml allows
#
# Needs Python 3.11 or newer and make. PYTHON=/path/to/python3 chooses another interpreter.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready

.PHONY: run test test-all soak bench check format lock clean system-packages

run: $(READY)
	@exec $(BIN)/cache-actors dev

# Two lanes: what can run beside other tests, several at once, since most of them wait for processes;
# then what wants the machine for itself. Both run, whatever becomes of the first.
test: $(READY) system-packages
	@$(call lanes,and not nightly)

test-all: export HYPOTHESIS_PROFILE := nightly
test-all: $(READY) system-packages
	@$(call lanes,)

TESTS ?= tests
DURATIONS := --durations=25 --durations-min=1
define lanes
status=0; ran=; \
lane() { \
	$(BIN)/pytest $(TESTS) $(DURATIONS) "$$@"; \
	case $$? in 0) ran=1;; 5) ;; *) ran=1; status=1;; esac; }; \
lane -m "not alone $(1)" -n 4 --dist loadgroup --no-loadscope-reorder; \
lane -m "alone $(1)"; \
test -n "$$ran" || { echo "No test was run: TESTS=$(TESTS)" >&2; status=5; }; \
exit $$status
endef

soak: $(READY) system-packages
	@exec $(BIN)/python -m tests.soak $(SOAK)

bench: PROGRAMS := /usr/sbin/nginx wrk
bench: PACKAGES := nginx-light wrk
bench: $(READY) system-packages
	@exec $(BIN)/python -m tests.bench $(BENCH)

# Debian's nginx, which is older than the one from PyPI, and what else tests run. Installed where that
# is allowed.
PROGRAMS := /usr/sbin/nginx curl openssl strace nix-instantiate promtool chromium-headless-shell
PACKAGES := nginx-light curl openssl strace nix-bin prometheus chromium-headless-shell

system-packages:
	@missing=; for program in $(PROGRAMS); do \
		command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing what is missing:$$missing ..."; \
		apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	else \
		echo "WARNING: missing, and not to be installed from here:$$missing" >&2; \
		echo "WARNING: what needs these will be SKIPPED (and fail where CI is set)." >&2; \
	fi

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: $(READY)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --constraint requirements.lock pyproject.toml \
		-o requirements-runtime.lock

clean:
	rm -rf .venv .dev build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The lock file has a hash for every package; the project itself is installed in place, without
# build isolation, so that nothing unpinned is ever fetched.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found. Set PYTHON=/path/to/python3" >&2; exit 1; }
	@rm -rf .venv
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing the pinned dependencies into .venv ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
