#!/bin/sh
# Measures fmnist-gpu on a GPU, in about seven minutes: are its kernels right and its results repeatable there, how fast are they, and where does the
# time go. Correctness comes first; a failure is noted, and the rest is still measured.
#
#   sh bench/gpu.sh OUT [PROGRAM]       PROGRAM is target/release/fmnist-gpu by default
#
# Writes into the folder OUT:
#
#   about.txt        adapter, driver, clocks, processor, commit
#   selftest.json    every kernel against double precision
#   repeat.txt       whether two trainings with one seed end with the same bits
#   candidates.txt   microseconds per step with each candidate of autotune
#   bench-*.json     images/s with autotune and without, in turn
#   profile-*.json   each kernel, timed over several dispatches in a row
#   <adapter>.json   beside the peers that bench/setup.sh installed, or that python3 can import; and .md
#
# FMNIST_DATA_DIR names a folder with the four files of Fashion-MNIST for the trainings; without it, they use generated images.
# `python3 bench/model.py` prints what is expected of an NVIDIA H200.
set -u

case ${1:-} in
'' | -h | --help)
    sed -n '2,18p' "$0"
    [ $# -gt 0 ]
    exit
    ;;
esac
out=$1
here=$(cd "$(dirname "$0")" && pwd)
program=${2:-$here/../target/release/fmnist-gpu}
mkdir -p "$out" || exit
if ! "$program" --version >/dev/null 2>&1; then
    printf 'gpu.sh: %s does not run; build it with: cargo build --release\n' "$program" >&2
    exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Choices of earlier runs would hide what a first start does.
export XDG_CACHE_HOME="$scratch/cache"
status=0

note() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }
failed() {
    note "FAILED: $*"
    status=1
}

note 'adapter'
{
    "$program" --version
    git -C "$here" rev-parse --short HEAD 2>/dev/null
    date
    uname -srm
    grep -m1 'model name' /proc/cpuinfo 2>/dev/null
    nproc 2>/dev/null
    "$program" devices
    nvidia-smi -q -d CLOCK,PERFORMANCE,POWER 2>/dev/null
} >"$out/about.txt" 2>&1

note 'correctness'
"$program" selftest --json >"$out/selftest.json" || failed 'the self-test'

note 'the same bits twice'
set -- --model cnn --epochs 1 --seed 7
if [ -n "${FMNIST_DATA_DIR:-}" ]; then set -- "$@" --data-dir "$FMNIST_DATA_DIR"; else set -- "$@" --dataset synthetic; fi
for run in one two; do
    "$program" train "$@" --out "$scratch/$run" >"$scratch/$run.txt" 2>&1 || failed "training $run: $(tail -n 1 "$scratch/$run.txt")"
done
if cmp "$scratch/one/model.safetensors" "$scratch/two/model.safetensors" >"$out/repeat.txt" 2>&1; then
    echo 'the same bits' >"$out/repeat.txt"
else
    failed 'two trainings with one seed differ'
fi

note 'candidates'
for model in mlp cnn; do
    for size in 32 256 1024; do
        RUST_LOG=debug "$program" bench --model "$model" --batch-size "$size" --mode train --seconds 0.1 2>&1 |
            sed -n "s/.*\(SharedTiles {.*us per step\)/$model, $size: \1/p"
    done
done >"$out/candidates.txt"

note 'with autotune and without, in turn'
for round in 1 2 3; do
    for model in mlp cnn; do
        "$program" bench --model "$model" --seconds 1 --json >"$out/bench-$model-tuned-$round.json" || failed "bench $model"
        "$program" bench --model "$model" --seconds 1 --json --no-autotune >"$out/bench-$model-$round.json" || failed "bench $model"
    done
done

note 'each kernel'
for model in mlp cnn; do
    for size in 32 256 1024; do
        for mode in train inference; do
            "$program" profile --model "$model" --batch-size "$size" --mode "$mode" --json >"$out/profile-$model-$size-$mode.json" ||
                failed "profile $model $size $mode"
        done
    done
done

note 'beside the peers'
python3 "$here/compare.py" --ours "$program" --out "$out" --models mlp,cnn --batch-sizes 32,256 --rounds 1 --seconds 1 --no-job ||
    failed 'bench/compare.py'

note "done: $out"
exit "$status"
