# Two commands from a bare clone: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/setup.stamp

.PHONY: chaos bench-peers evaluation evaluation-quick demo test test-quick check setup soak clean

demo: $(STAMP)
	$(BIN)/memserve demo $(ARGS)

# What starts real engines comes last and alone: two of them need both cores. ARGS="-k name" chooses some tests.
test: $(STAMP)
ifeq ($(strip $(ARGS)),)
	$(BIN)/pytest -m "not engine" -n 2 --dist loadfile
	$(BIN)/pytest -m engine
else
	$(BIN)/pytest $(ARGS)
endif

test-quick: $(STAMP)
	$(BIN)/pytest -m "not engine" -n 2 --dist loadfile $(ARGS)

# Ten minutes of random calls and kills; ARGS="--seconds 60" for less.
soak: $(STAMP)
	$(BIN)/python -m tests.soak.run $(ARGS)

# Clusters of simulated and of real instances under load and faults; ARGS="--simulated --seconds 60" for one of them.
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos.run $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(STAMP)

# What `memserve bench` compares with; iperf3 and libibverbs1 come from the system (apt install iperf3 libibverbs1).
bench-peers:
	$(PYTHON) scripts/bench_peers.py $(ARGS)

# Every table and figure of docs/evaluation.md: measured for most of a day, and small, in a quarter of an hour, into a
# folder of its own. Both go on where they were stopped; ARGS="--only study-swap,index" makes some parts alone.
EVALUATION = $(BIN)/memserve bench evaluation
evaluation: $(STAMP)
	$(EVALUATION) benchmarks/results $(ARGS)

evaluation-quick: $(STAMP)
	$(EVALUATION) build/evaluation-quick --out build/evaluation-quick --size quick $(ARGS)

$(STAMP): pyproject.toml scripts/setup.py
	$(PYTHON) scripts/setup.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
