#!/bin/sh
# Installs the peers that bench/compare.py measures, each in its own environment in bench/.venv, which git ignores.
#
#   bench/setup.sh                # all of them: keras torch jax burn
#   bench/setup.sh keras torch    # only these
#
# Installs the CUDA builds if there is an NVIDIA GPU, otherwise the CPU builds. PYTHON names the interpreter,
# TORCH_INDEX a different package index for PyTorch.
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
    # PyPI's Linux wheels include CUDA, several gigabytes; the CPU wheels are on PyTorch's own index.
    if has_nvidia || [ "$(uname -s)" != Linux ]; then
        install torch torch numpy
    else
        install torch numpy
        install torch torch --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" || {
            say 'the index with the CPU wheels does not respond; installing the large wheel from PyPI'
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
        say "unknown peer $peer: choose from keras, torch, jax, burn"
        exit 2
        ;;
    esac
done
failed=
for peer in "$@"; do
    say "$peer"
    # If one cannot be installed, the others still are.
    ("$peer") || failed="$failed $peer"
done
[ -z "$failed" ] || {
    say "could not install:$failed"
    exit 1
}
