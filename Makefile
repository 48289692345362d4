# FDD: `make` alone lists the targets. Everything is installed into .venv; nothing outside this folder is changed.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install dev demo bench test smoke lint format clean distclean
.NOTPARALLEL:

PYTHON ?=
ARGS ?=
# Processes that share the tests, a whole file each; 1 runs them in the process of pytest itself (for --pdb and -s).
JOBS ?= 2
VENV_PYTHON := .venv/bin/python

# bootstrap.py decides what is to do (it keeps a stamp over the requirement files), so it may run each time. The
# candidates are run, not looked up: on some machines `python3.12` is a launcher of something that is not there.
define bootstrap
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		for candidate in python3.12 python3.11 python3 python3.13 $(VENV_PYTHON); do \
			if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
				>/dev/null 2>&1; then python="$$candidate"; break; fi; \
		done; \
	fi; \
	if [ -z "$$python" ]; then \
		echo "FDD needs Python 3.11, 3.12 or 3.13 with its venv module, and none was found." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name one: make $@ PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	"$$python" tools/bootstrap.py $(1)
endef

help: ## list the targets
	@echo "usage: make TARGET [PYTHON=/path/to/python3.12]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

install: ## create .venv with everything FDD needs (about 3 GB to download, 6 GB on disk); repairs a half-finished one
	$(call bootstrap)

dev: ## install, plus pytest, pytest-xdist, ruff and mypy
	$(call bootstrap,--dev)

demo: install ## install, then train on synthetic shapes and draw the results into output/demo
	@$(VENV_PYTHON) tools/demo_shapes.py --output output/demo $(ARGS)

bench: install ## time and memory of every part beside its plain form (15 minutes; make bench ARGS="--only dice")
	@$(VENV_PYTHON) -m benchmarks.run $(ARGS)

test: dev ## run all tests in two processes, about 6 minutes (make test ARGS="-k points" JOBS=1)
	@$(VENV_PYTHON) -m pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder) $(ARGS)

smoke: dev ## run one test or two of every room, in less than a minute: what to run while editing
	@$(VENV_PYTHON) -m pytest @tests/smoke.txt $(ARGS)

lint: dev ## check format (ruff format), style (ruff check) and types (mypy)
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m mypy

format: dev ## rewrite the files into the format that lint asks for
	@$(VENV_PYTHON) -m ruff format .
	@$(VENV_PYTHON) -m ruff check --fix .

clean: ## delete build products and caches; keeps .venv and output
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	@find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## clean, and delete .venv too
	@rm -rf .venv fdd.egg-info
