#!/bin/sh
# Makes a virtual environment with the Python packages that the tests open files with, and prints its interpreter.
#   sh tests/python/setup.sh DIR [PYTHON]
# Then: FMNIST_TEST_PYTHON=DIR/bin/python cargo test --release
set -eu
dir=${1:?usage: setup.sh DIR [PYTHON]}
python=${2:-python3}
# Debian's and Ubuntu's own Python may have PyTorch for processors alone (package python3-torch).
if [ $# -lt 2 ] && /usr/bin/python3 -c 'import torch' >/dev/null 2>&1; then
    python=/usr/bin/python3
fi
[ -x "$dir/bin/python" ] || "$python" -m venv --system-site-packages "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check -r "$(dirname "$0")/requirements.txt"
"$dir/bin/python" -c 'import torch' >/dev/null 2>&1 || "$dir/bin/python" -m pip install --quiet --disable-pip-version-check torch
echo "$dir/bin/python"
