# make demo   set up, train on the built-in sample data set, evaluate, print the result table
# make test   set up, run the whole test suite
# make lint   set up, check style and format
# make setup  .venv with requirements.txt installed, and nothing else

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/installed
# Pages of memory kept by the process: on a CPU this is a third of the training time.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= -1

.PHONY: setup demo test lint clean

setup: $(READY)

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; choose one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade -r requirements.txt
	touch $@

demo: $(READY)
	$(VENV)/bin/python train_nni.py --dataset sample --model delegate_cnn \
	  --epochs 8 --lr 2e-4 --new-layer-lr-factor 5

# Two processes, whose threads do not spin while they wait: those of the other want the cores.
test: $(READY)
	OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf runs .pytest_cache .ruff_cache
