# What there is to do here: `make help`. Every target sets up what is missing.
PYTHON ?= python3
PY := .venv/bin/python
# Which ROS 2 the tests run on: jazzy, or kilted for what is ROS.
ROS ?= jazzy
KILTED := .venv-kilted/bin/python
ROS_TESTS := tests/faults $(addprefix tests/test_,$(addsuffix .py,messages nodes params settings simulation_node gym_nodes \
	planner_nodes arm_planner camera_guard image_generator bringup))

TASK ?= can
EPISODES ?= 3
SEED ?= 100000
VIEW ?= frontview
MODE ?= realtime
SPEED ?= 1.0
# 1: a page in the browser that shows it and can stop it.
WEB ?=
CHECKPOINT ?= checkpoints/$(TASK)_pixels.pt
# Tests at a time: more than there are cores, as many of them wait. Neighbours stay together, as they share fixtures and
# imports, until a worker has nothing left to do.
JOBS ?= $(shell expr $$(nproc) + 2)
PYTEST_JOBS := -n $(JOBS) --dist worksteal
# Tests start hundreds of processes: what one has compiled, the others read.
TEST_ENV := ROS_PYTHON_CHECK_FIELDS=1 PYTHONDONTWRITEBYTECODE=
RUN := $(or $(RUN),runs/$(TASK)-$(shell date +%Y%m%d-%H%M%S))

.DEFAULT_GOAL := help
.PHONY: help setup kilted franka sim test test-slow check bench clean

help:
	@echo "make sim        the Can task from pixels over ROS 2: simulator, policy and executor, with a video under runs/"
	@echo "                TASK=lift|can|square EPISODES=$(EPISODES) SEED=$(SEED) VIEW=$(VIEW) MODE=realtime|lockstep SPEED=$(SPEED) CHECKPOINT=..."
	@echo "                WEB=1: a page in the browser that shows it and can stop it"
	@echo "make test       the tests (make test-slow: the slow ones; ROS=kilted: those of ROS, on Kilted instead of Jazzy)"
	@echo "make check      format, lint, types"
	@echo "make bench      the benchmarks, as ratios against a reference timed in the same run"
	@echo "make setup      .venv with the pinned versions (PYTHON=$(PYTHON)); the others do this when it is missing"
	@echo "make franka     the driver of a Franka and a simulator of its interface, for the tests of both"
	@echo "make clean      removes caches and build folders; keeps .venv, runs and data"

setup: .venv/.installed

.venv/.installed: requirements.lock setup.py pyproject.toml
	@scripts/setup.sh "$(PYTHON)"
	@touch $@

sim: setup
	@MUJOCO_GL=$$(scripts/system_libraries.sh $(PY)) && export MUJOCO_GL && exec $(PY) -m diffusion_ros.bringup simulation \
		--task "$(TASK)" --checkpoint "$(CHECKPOINT)" --episodes "$(EPISODES)" --seed "$(SEED)" --mode "$(MODE)" \
		--speed "$(SPEED)" --view "$(VIEW)" --output-dir "$(RUN)" --json "$(RUN)/summary.json" \
		$(if $(WEB),--web-control)

kilted: .venv-kilted/.installed

.venv-kilted/.installed: .venv/.installed requirements-kilted.txt
	@scripts/setup.sh kilted
	@touch $@

franka: .venv-franka/.installed

.venv-franka/.installed: .venv/.installed requirements-franka-sim.txt
	@scripts/setup.sh franka
	@touch $@

ifeq ($(ROS),jazzy)
test: setup
	$(TEST_ENV) $(PY) -m pytest $(PYTEST_JOBS)
else ifeq ($(ROS),kilted)
test: kilted
	$(TEST_ENV) $(KILTED) -m pytest $(PYTEST_JOBS) $(ROS_TESTS)
else
test:
	@echo "ROS=$(ROS): expected jazzy or kilted" >&2; exit 2
endif

test-slow: setup
	@$(MAKE) --no-print-directory franka || echo "without a simulated Franka: its tests will skip" >&2
	$(TEST_ENV) $(PY) -m pytest -m slow

check: setup kilted
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy --python-executable $(KILTED)
	$(PY) -m tests.documents --check

bench: setup
	@for benchmark in tests/benchmarks/bench_*.py; do $(PY) "$$benchmark" || exit 1; done

clean:
	rm -rf build install log dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
