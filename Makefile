# Everything here works in a fresh checkout: scripts/setup makes .venv and installs what is missing.
# Paths are relative, so that the checkout's own path may hold spaces.

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help coverage demo lab test lint bench bench-lab bench-fleet bench-s3 torture build zipapp lock clean setup-run setup-dev setup-bench

PY := .venv/bin/python
COVERAGE :=
# Ansible refuses a locale that is not UTF-8.
export LC_ALL := C.UTF-8
# The linters start each other by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# This checkout, not a copy that was installed on this machine before.
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.venv/collections
# Variables given to make reach the programs: SOURCE=dir (demo), LAB=down (lab), TREES=names TURNS=n WITHOUT=tools (bench), INSTANTS=n RACES=n (torture), PYTHON=program (setup).

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: setup-run ## Back up, change, verify, damage, restore a real tree on this machine (SOURCE=dir chooses it)
	@$(PY) scripts/demo.py

lab: setup-dev ## Make a vault and three hosts in containers and leave them up to play with (LAB=down removes them)
	@scripts/lab $(or $(LAB),up)

test: lint ## Run the linters and every test
	@echo "Not among these tests: kills at many random instants (make torture)."
	@# What takes longest begins (tests/conftest.py). The stories often wait, so that there is one process more than processors.
	$(PY) -m pytest -n $$(( $$(nproc) + 1 )) --dist loadfile --no-loadscope-reorder --timeout 600 $(COVERAGE)

coverage: COVERAGE := --cov --cov-report=term:skip-covered
coverage: test ## Run the linters and every test, and measure which lines they reach: half as long again

lint: setup-dev ## Run the linters alone
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m yamllint --strict .
	$(PY) -m ansiblelint
	$(PY) -m antsibull_changelog lint

bench: setup-bench ## Measure beside rsync, rsnapshot, restic and borg (TREES=small,history,million,large,openclaw TURNS=5 WITHOUT=borg)
	@$(PY) tests/benchmarks/bench.py

bench-lab: setup-dev ## Measure backups from one host of the lab to another, beside rsync over SSH (TURNS=5)
	@$(PY) tests/benchmarks/lab.py

bench-fleet: setup-dev ## Hold a drill of 20 hosts over 2 vaults of the lab to its bar, 180 s
	@$(PY) tests/benchmarks/fleet.py

bench-s3: setup-dev setup-bench ## Count and time backups to a bucket, beside restic, rclone and s3fs (TURNS=5)
	@$(PY) tests/benchmarks/s3.py

torture: setup-dev ## Kill runs at random instants, and have two commit at one moment, many times (INSTANTS=200 RACES=1000)
	INSTANTS=$(or $(INSTANTS),200) RACES=$(or $(RACES),1000) $(PY) -m pytest -m torture

build: setup-run ## Build the collection's archive into build/
	$(PY) -m ansible galaxy collection build --force --output-path build

zipapp: ## Build the command line openclaw-backup into build/ (with PYTHON=program, else python3; it needs nothing else)
	@mkdir -p build
	$(or $(PYTHON),python3) roles/client/files/build_zipapp.py build/openclaw-backup

lock: setup-dev ## Pin the newest versions into requirements/*.txt
	cd requirements && for set in run dev; do \
	    PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= CUSTOM_COMPILE_COMMAND="make lock" ../$(PY) -m piptools compile --quiet --upgrade \
	        --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	        --output-file $$set.txt $$set.in || exit; \
	done

clean: ## Remove everything that make has made, .venv too
	rm -rf .venv .cache .ansible build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup-run:
	@scripts/setup run

setup-dev:
	@scripts/setup dev

setup-bench:
	@scripts/setup bench
