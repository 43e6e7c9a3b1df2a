#!/bin/sh
# Plants mistakes in the code, everywhere but in the kernels, and lists those that no test finds.
#
#   sh scripts/mutants.sh PART/PARTS [FOLDER]      0/40: every fortieth mistake, from the first on; FOLDER is `mutants` by default
#
# The quick tests run for each mistake, then the other tests that take a second or two for those that are left, then all tests. What is left
# at the end is in FOLDER/missed.txt; what is not in docs/mutants.md either is a missing test. All 8,400 mistakes would take days.
#
# Needs `cargo install --locked cargo-mutants`; .cargo/mutants.toml has its options.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
[0-9]*/[0-9]*) ;;
*)
    sed -n '2,9p' "$0"
    exit 2
    ;;
esac
folder=${2:-mutants}
# Several copies of the source share what was compiled.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
mkdir -p "$folder"

# Runs cargo-mutants with its options up to `--` and those of `cargo test` after it. Exit code 2: some were missed; 3: some made the tests
# run forever.
try() {
    stage=$1
    shift
    printf '== %s\n' "$stage"
    code=0
    cargo mutants --output "$folder/$stage" --colors never "$@" || code=$?
    case $code in 0 | 2 | 3) ;; *) exit "$code" ;; esac
    cp "$folder/$stage/mutants.out/missed.txt" "$folder/missed.txt"
}

# Tries again what was missed, by its name.
again() {
    stage=$1
    shift
    [ -s "$folder/missed.txt" ] || return 0
    names=$(sed 's/[][\\.*^$(){}?+|]/\\&/g' "$folder/missed.txt" | paste -sd '|')
    try "$stage" --baseline skip --timeout 3600 --re "^($names)\$" "$@"
}

try quick --shard "$1" --sharding round-robin -- quick
again short -- -- --skip conv2d --skip dense --skip checkpoints --skip cli --skip faults --skip crash_points --skip photo \
    --skip training --skip native --skip bench --skip autotune --skip power_loss --skip report_page --skip output --skip examples \
    --skip mutants --skip quick
again all -C --lib -C --bins -- -- --skip examples --skip quick
printf '== missed by all tests: %s\n' "$(wc -l <"$folder/missed.txt")"
