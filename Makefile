# make demo                  all nine notebooks on synthetic X-rays, in workspace/demo
# make test                  lint and tests, notebooks included
# make soak                  the long tests: processes killed, disks full, thousands of damaged files
# make backends              one tiny training of each network on PyTorch, which is installed for it
# make real DATA=folder      all nine notebooks on a downloaded bundle, in workspace/real
# make benchmark DATA=folder EXTERNAL=folder
#                            every result again, from the shipped weights; either may be left out;
#                            EXTERNAL may be a set of yours, which is scored but not recorded;
#                            HEART=in says that its masks include the lung behind the heart
# make page                  the page that finds lungs in the browser, at http://127.0.0.1:8080
# make lint                  ruff alone
# make set-repository URL=…  the repository's address in badges, notebooks and README
# make clean                 removes .venv and caches; the workspace stays
#
# PYTHON=… names the Python to install with; else 3.13, 3.12 or 3.11, the newest that is there.

READY := .venv/ready$(if $(PYTHON),-$(subst /,_,$(PYTHON)))
CONSTRAINTS := tests/constraints-colab.txt
RUN_SERIES := .venv/bin/python -m tools.series

.PHONY: help demo test backends soak real benchmark page lint clean set-repository
help:
	@sed -n 's/^# \{0,1\}//; /^$$/q; p' Makefile

# One environment for all targets, made once; on Python 3.13 with Colab's versions.
$(READY): requirements.txt pyproject.toml $(CONSTRAINTS)
	@set -eu; python=$$(.ci/find_python "$(PYTHON)"); "$$python" .ci/check_machine.py; \
	test -e $@ || "$$python" -m venv --clear .venv; \
	case $$(.venv/bin/python -V) in "Python 3.13."*) set -- -c $(CONSTRAINTS);; *) set --;; esac; \
	echo "Installing with $$python into .venv (a few minutes the first time)"; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$@" --editable ".[test]"
	@touch $@

demo: $(READY)
	$(RUN_SERIES) --recipe recipes/demo.yaml --workspace workspace/demo

real: $(READY)
	@test -n "$(DATA)" || { echo "Name the bundle's folder: make real DATA=folder" >&2; exit 2; }
	@test -d "$(DATA)" || { echo "There is no folder $(DATA)" >&2; exit 2; }
	$(RUN_SERIES) --recipe recipes/real-cpu.yaml --workspace workspace/real \
	  -p SOURCE=folder -p 02.LOCATION="$$(cd "$(DATA)" && pwd)"

benchmark: $(READY)
	.venv/bin/python -m benchmarks.score_shipped --workspace workspace/benchmark \
	  $(if $(DATA),--data "$(DATA)") $(if $(EXTERNAL),--external "$(EXTERNAL)") \
	  $(if $(HEART),--heart "$(HEART)")

page: $(READY)
	.venv/bin/python -m tools.page

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# Two at a time, file by file: what a file sets up for its tests is set up once.
test: lint
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Into the same environment; where there is a build without CUDA, that saves gigabytes.
backends: $(READY)
	.venv/bin/python -c "import torch" 2>/dev/null || .venv/bin/python -m pip install --quiet \
	  --disable-pip-version-check --extra-index-url https://download.pytorch.org/whl/cpu torch
	LUNGSEG_BACKENDS=torch .venv/bin/python -m pytest tests/test_backends.py

soak: $(READY)
	.venv/bin/python tests/soak $(SOAK)

# Needs no library, so nothing is installed for it.
set-repository:
	@python=$$(.ci/find_python "$(PYTHON)") && "$$python" -m tools.set_repository "$(URL)"

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
