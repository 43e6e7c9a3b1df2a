#!/bin/sh
# Creates a virtual environment with the packages that the tests of the exports need (requirements.txt):
#
#     sh tests/python/setup.sh DIR
#     FMNIST_TEST_PYTHON=DIR/bin/python cargo test --release -- export
#
# PYTHON names the interpreter to use (3.11 or newer; default python3). Does nothing if DIR is complete.
#
# The system's own PyTorch is used if there is one (Debian and Ubuntu: apt-get install python3-torch python3-venv, 250 MB). Otherwise
# PyTorch is installed from its index of CPU-only packages. If that cannot be reached, it is installed from PyPI, whose package
# for Linux on x86-64 includes CUDA's libraries; all of them except the compiler Triton are needed even to import it.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh tests/python/setup.sh DIR" >&2
    exit 2
fi
venv=$1
here=$(dirname "$0")
python=${PYTHON:-python3}
system=
if [ -z "${PYTHON:-}" ] && /usr/bin/python3 -c 'import sys, torch; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    python=/usr/bin/python3
    system=--system-site-packages
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
imports() { KERAS_BACKEND=jax "$venv/bin/python" -c "import brotli, onnx, onnxruntime, keras, safetensors.torch, tensorboard, torch" >/dev/null 2>&1; }

if [ -x "$venv/bin/python" ] && imports; then
    echo "setup: $venv is complete"
    exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is older than 3.11; set PYTHON=... to use another" >&2
    exit 1
}
"$python" -m venv $system "$venv"
torch=$(grep '^torch==' "$here/requirements.txt")
grep -v '^torch==' "$here/requirements.txt" >"$venv/others.txt"
pip install --no-cache-dir -r "$venv/others.txt"

if [ -n "$system" ]; then
    echo "setup: using the system's PyTorch"
elif pip --retries 0 --timeout 15 install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null; then
    echo "setup: installed $torch, CPU only, from download.pytorch.org"
else
    echo "setup: installing $torch from PyPI, without Triton"
    pip install --no-cache-dir --no-deps "$torch"
    "$venv/bin/python" - >"$venv/of-torch.txt" <<'PYTHON'
import importlib.metadata
from pip._vendor.packaging.requirements import Requirement

for line in importlib.metadata.requires("torch"):
    needed = Requirement(line)
    if needed.name != "triton" and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
PYTHON
    # pip complains that Triton is missing, which is intended.
    pip install --no-cache-dir -r "$venv/of-torch.txt" 2>"$venv/pip.log" || { cat "$venv/pip.log" >&2; exit 1; }
fi
if ! imports; then
    echo "setup: the packages were installed but cannot be imported:" >&2
    KERAS_BACKEND=jax "$venv/bin/python" -c "import brotli, onnx, onnxruntime, keras, safetensors.torch, tensorboard, torch"
    exit 1
fi
echo "setup: $venv is complete ($(du -sm "$venv" | cut -f1) MB)"
