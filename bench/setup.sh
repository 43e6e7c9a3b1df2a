#!/bin/sh
# Installs the peers that bench/compare.py measures: each in an environment of its own under bench/.venv, which git ignores.
#
#   bench/setup.sh                # all: keras torch jax burn
#   bench/setup.sh keras torch    # some
#
# Where there is an NVIDIA GPU the CUDA builds are taken, else those for the processor. PYTHON names the interpreter,
# TORCH_INDEX another package index for PyTorch.
set -eu

cd "$(dirname "$0")"
python=${PYTHON:-python3}

say() { printf 'setup: %s\n' "$*"; }

has_nvidia() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

# install PEER PIP-ARGUMENTS...
install() {
    peer=$1
    shift
    [ -x ".venv/$peer/bin/python" ] || "$python" -m venv ".venv/$peer"
    ".venv/$peer/bin/python" -m pip install --quiet --upgrade "$@"
}

keras() {
    if has_nvidia; then install keras 'tensorflow[and-cuda]'; else install keras tensorflow-cpu; fi
}

torch() {
    # PyPI's Linux wheels carry CUDA, some gigabytes; those for the processor are on PyTorch's own index.
    if has_nvidia || [ "$(uname -s)" != Linux ]; then
        install torch torch numpy
    else
        install torch numpy
        install torch torch --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" || {
            say 'the index with the wheels for the processor does not answer; taking the large wheel from PyPI'
            install torch torch
        }
    fi
}

jax() {
    if has_nvidia; then install jax 'jax[cuda12]' numpy; else install jax jax numpy; fi
}

burn() {
    cargo build --release --locked --manifest-path peers/burn/Cargo.toml --target-dir .venv/burn
}

[ $# -gt 0 ] || set -- keras torch jax burn
for peer in "$@"; do
    case $peer in
    keras | torch | jax | burn) ;;
    *)
        say "$peer is not a peer; there are keras, torch, jax and burn"
        exit 2
        ;;
    esac
done
failed=
for peer in "$@"; do
    say "$peer"
    # One that cannot be installed here does not keep the others away.
    ("$peer") || failed="$failed $peer"
done
[ -z "$failed" ] || {
    say "not installed:$failed"
    exit 1
}
