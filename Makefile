# Thin on purpose: the logic lives in tools/*.py. `make help` lists the targets.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done; echo python3)
PIP_ARGS ?=
NOTEBOOK ?=
LAB_ARGS ?=
BEGIN ?=
COURSE := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install lab run test rehearsal browser bench notebooks figures site links i18n i18n-status lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.12  PIP_ARGS=\"--extra-index-url …\"  NOTEBOOK=unit1/….ipynb  LAB_ARGS=\"…\""

install: ## make .venv and install what the course needs (once)
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer \
	(https://www.python.org/downloads/), or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" tools/bootstrap.py --pip-args="$(PIP_ARGS)" $(if $(filter file,$(origin PYTHON)),--python-by-default)

lab: install ## install, and open JupyterLab at Unit 1
	@$(COURSE) -m tools.lab $(LAB_ARGS)

run: install ## execute every notebook (or NOTEBOOK=…): table, build/run.json, build/html/
	@$(COURSE) -m tools.run_notebooks $(NOTEBOOK)

test: install ## the tests, then every notebook, each alone in an empty folder
	@$(COURSE) -m pytest tests
	@echo "The tests of the widgets again, with ipywidgets 7, which Colab has:"
	@PYTHONPATH=.venv/ipywidgets7 $(COURSE) -m pytest -q -W ignore::DeprecationWarning tests/test_explore.py tests/test_explore_latent.py
	@$(COURSE) -m tools.alone $(NOTEBOOK)

rehearsal: install ## every notebook (or NOTEBOOK=…) at scale full, against a Hub on this machine
	@$(COURSE) -m tests.rehearsal $(NOTEBOOK)
	@$(if $(NOTEBOOK),,COURSE_SCALE=mini COURSE_REHEARSAL=4 $(COURSE) -m tools.run_notebooks --translated)

browser: install ## run every notebook (or NOTEBOOK=…) in a real browser, and move every control
	@$(COURSE) -m tools.browser $(NOTEBOOK)

bench: install ## measure speed and memory beside the peers: hours (QUICK=1: 5 minutes, rough; ONLY="peak growth")
	@$(COURSE) -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

notebooks: install ## execute, and save fresh outputs into the notebooks (or NOTEBOOK=…)
	@$(COURSE) -m tools.run_notebooks --save $(NOTEBOOK)

figures: install ## draw the figures of the READMEs again
	@$(COURSE) -m recipes.figures

site: install ## write the course as pages for reading, from the saved outputs: build/site/index.html
	@$(COURSE) -m tools.site

links: install ## rewrite every launch link (LINKS="--repository OWNER/NAME --branch B" changes the address)
	@$(COURSE) -m tools.links --write $(LINKS)

i18n: install ## write the translations from the English documents and i18n/ (BEGIN=unit1/….ipynb: begin one)
	@$(COURSE) -m tools.i18n $(if $(BEGIN),--begin $(BEGIN),--write)

i18n-status: install ## what is translated of each document, and what is not
	@$(COURSE) -m tools.i18n --status

lint: install ## ruff, notebook hygiene, launch links, translations
	@$(COURSE) -m ruff check .
	@$(COURSE) -m ruff format --check .
	@$(COURSE) -m tools.hygiene
	@$(COURSE) -m tools.links --check
	@$(COURSE) -m tools.i18n --check

clean: ## remove what the tools made (.venv and build)
	rm -rf .venv build
