# Every recipe runs inside the virtual environment that `tools/dev` makes.
set positional-arguments

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# list the recipes
default:
    @just --list --unsorted

# make or refresh the virtual environment
setup:
    tools/dev setup

# put the code in its standard form
fmt:
    ruff format .
    ruff check --fix .

# ruff, and the Trio rules that ruff lacks
lint:
    ruff format --check .
    ruff check .
    flake8 hivemind sandbox

# mypy, strict
types:
    mypy

# import-linter: the floors of the house
layers:
    lint-imports

# regenerate hivemind/_pb from proto/
proto:
    tools/proto

# fail where the committed hivemind/_pb differs from what proto/ generates
proto-check:
    tools/proto --check

# write hivemind/REFERENCE.md anew from what the code says
reference:
    python -m tools.reference

# what CI runs: checks, tests, the wheel
test: lint types layers proto-check
    pytest -m "not slow"
    just wheel

# the tests alone, with any of pytest's options
pytest *ARGS:
    pytest "$@"

# everything, the slow suites too
test-all: lint types layers proto-check
    pytest
    just wheel

# hostile programs against the sandbox, in every mode, as root and as an ordinary user
abuse *ARGS:
    tools/abuse "$@"

# build the wheel and prove that it runs from an empty folder, and sandbox with attrs and trio alone
wheel:
    tools/wheel-check

# a pool, a real task through it, its output on the screen, a clean stop
demo:
    tools/demo

# the benchmarks
bench *ARGS:
    python -m tools.bench "$@"

# each way to start Python in the sandbox against the real interpreter, all of the table
conformance *ARGS:
    pytest tests/conformance "$@"

# real daemons against callers that send anything, for long; a small part of it is in `just test`
fuzz *ARGS:
    pytest tests/fuzz --hypothesis-profile fuzz "$@"
