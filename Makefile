# Each target sets up for itself what it needs, in $(VENV); a second call does so only
# when pyproject.toml has changed. With another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
comma := ,
# Processes that run tests side by side. Most tests wait for starts and ends of others, so that two
# cores are busy with four of them.
JOBS ?= 4

# A half-made environment must not pass as one.
.DELETE_ON_ERROR:
.PHONY: help demo test coverage lint house bench torture slurm-up slurm-down oldstack-env mpi-env clean distclean

help:
	@echo "make demo       see it work: a recording, a run, a result, pictures"
	@echo "make test       lint, and all tests but the torture"
	@echo "make coverage   likewise, and which lines they reach: twice as long"
	@echo "make lint       ruff, mypy --strict, import-linter"
	@echo "make house      draw the rooms of the packages: docs/images/house.svg"
	@echo "make bench      which writer is fastest here"
	@echo "make torture    the long tests: kills, floods, full disks"
	@echo "make slurm-up   a real SLURM on this machine; its last line is for eval; slurm-down"
	@echo "make mpi-env    a Python with a real MPI and parallel HDF5; its last line is the path"
	@echo "make clean      remove caches and builds; distclean: also $(VENV)"

demo: $(VENV)/.has-demo
	$(BIN)/hpcio demo

lint: $(VENV)/.has-dev+test+slurm+plot
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hpcio slurm
	$(BIN)/lint-imports

house: $(VENV)/.has-dev+test+slurm+plot
	$(BIN)/python docs/house

# Thousands of processes start here: without bytecode, each would compile the packages again.
test: lint
	@.ci/system-packages
	@old=$$(.ci/oldstack-env) || echo "Tests marked oldstack will be skipped." >&2; \
	mpi=$$($(MPI_ENV)) || echo "Tests marked mpi will be skipped: on Open MPI." >&2; \
	mpich=$$($(MPI_ENV) mpich) || echo "Tests marked mpi will be skipped: on MPICH." >&2; \
	set -x; HPCIO_OLDSTACK_PYTHON="$$old" HPCIO_MPI_PYTHON="$$mpi" HPCIO_MPICH_PYTHON="$$mpich" \
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m "not torture" -n $(JOBS) --dist loadfile $(COVER) $(ARGS)

coverage: COVER = --cov --cov-report=term
coverage: test

torture: $(VENV)/.has-dev+test+slurm+plot
	@.ci/system-packages torture
	@mpi=$$($(MPI_ENV)); mpich=$$($(MPI_ENV) mpich); kernel=$$(.ci/guest-kernel); \
	set -x; HPCIO_MPI_PYTHON="$$mpi" HPCIO_MPICH_PYTHON="$$mpich" HPCIO_GUEST_KERNEL="$$kernel" \
	$(BIN)/python -m pytest -m torture $(ARGS)

bench: $(VENV)/.has-slurm+plot
	@mpi=$$($(MPI_ENV)) || echo "The row of MPI will be left out." >&2; \
	set -x; HPCIO_MPI_PYTHON="$$mpi" $(BIN)/python -m benchmarks $(ARGS)

# A SLURM to play with: eval "$$(make -s slurm-up)"
SLURM_FOLDER ?= $(or $(TMPDIR),/tmp)/hpcio-slurm-$(shell id -un)
slurm-up: | $(BIN)/python
	@.ci/system-packages
	@mkdir -p -m 755 $(SLURM_FOLDER)
	@$(BIN)/python -m tests.rigs.slurm up $(SLURM_FOLDER)

slurm-down: | $(BIN)/python
	@$(BIN)/python -m tests.rigs.slurm down $(SLURM_FOLDER)

oldstack-env:
	@.ci/oldstack-env

# For the Python of the tests, if there is one. MPI=mpich: PyPI's MPICH, without parallel HDF5.
MPI_ENV = MPI_PYTHON=$(firstword $(wildcard $(BIN)/python) $(PYTHON)) .ci/mpi-env
mpi-env:
	@$(MPI_ENV) $(MPI)

# A stamp for each set of extras: .has-dev+test is `pip install -e .[dev,test]`.
$(VENV)/.has-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(subst +,$(comma),$*)]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Say make PYTHON=/path/to/python3."; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hpcio needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) -V)."; \
	  echo "Say make PYTHON=python3.12, or whatever newer one there is."; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. As root: apt install python3-venv"; \
	  exit 1; } >&2
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
	  .mypy_cache .pytest_cache .ruff_cache
	find hpcio slurm tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	@[ ! -e $(VENV) ] || [ -e $(VENV)/pyvenv.cfg ] || { \
	  echo "$(VENV) is no virtual environment; not removed."; exit 1; } >&2
	rm -rf $(VENV)
