#!/bin/sh
# Creates a virtual environment with Ray Tune and Optuna, for the tests of examples/sweeps:
#
#     sh tests/sweeps.sh DIR
#     FMNIST_SWEEPS_PYTHON=DIR/bin/python cargo test --release -- sweeps
#
# PYTHON names the interpreter to use (3.10 or newer; default python3). Does nothing if DIR is complete. It is not the environment of
# tests/python/setup.sh, whose packages need other versions of the same libraries. Takes a minute and 670 MB.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh tests/sweeps.sh DIR" >&2
    exit 2
fi
venv=$1
here=$(dirname "$0")
imports() { "$venv/bin/python" -c "import optuna, ray.tune" >/dev/null 2>&1; }

if [ -x "$venv/bin/python" ] && imports; then
    echo "setup: $venv is complete"
    exit 0
fi
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-cache-dir -r "$here/../examples/sweeps/requirements.txt"
imports || {
    echo "setup: the packages were installed but cannot be imported:" >&2
    "$venv/bin/python" -c "import optuna, ray.tune"
    exit 1
}
echo "setup: $venv is complete ($(du -sm "$venv" | cut -f1) MB)"
