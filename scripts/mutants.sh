#!/bin/sh
# Plants mistakes in the code, everywhere but in the kernels, and lists those that no test finds.
#
#   sh scripts/mutants.sh PART/PARTS [FOLDER]      0/40: every fortieth mistake, 1/40: the one after each; FOLDER is target/mutants by default
#
# The quick tests run for each mistake, then, for those that are left, the tests whose names have a word of the file's path, then the other tests
# that take a second or two, then all tests. What is left at the end is in FOLDER/missed.txt; what is not in docs/mutants.md either is a missing
# test. All 12,000 mistakes would take days.
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
folder=${2:-target/mutants}
# Several copies of the source share what was compiled.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

# Tries the mistakes that a file lists, with more options of cargo-mutants and, after `--`, those of `cargo test`.
try() {
    stage=$1
    listed=$2
    shift 2
    printf '== %s: %s mistakes\n' "$stage" "$(wc -l <"$listed")"
    [ -s "$listed" ] || return 0
    # Mistakes of some kinds cannot be chosen by name, but all others can be left out.
    mkdir -p "$folder/$stage/mutants.out"
    grep -vxFf "$listed" "$folder/all.txt" >"$folder/$stage/mutants.out/previously_caught.txt"
    code=0
    cargo mutants --iterate --output "$folder/$stage" --colors never "$@" || code=$?
    # 2: some were missed; 3: some made the tests run forever, which counts as found.
    case $code in 0 | 2 | 3) ;; *) exit "$code" ;; esac
    cp "$folder/$stage/mutants.out/missed.txt" "$folder/missed.txt"
}

# Tries the mistakes of each file that are left with the tests that are about it: of src/photo/garment.rs, those named photo or garment.
try_near() {
    cp "$folder/missed.txt" "$folder/missed-by-quick.txt"
    : >"$folder/missed-by-near.txt"
    cut -d: -f1 "$folder/missed-by-quick.txt" | sort -u >"$folder/files.txt"
    while read -r file; do
        grep "^$file:" "$folder/missed-by-quick.txt" >"$folder/of-file.txt"
        words=$(printf '%s' "${file#src/}" | sed 's/\.rs$//; s|/mod$||; s|/| |g')
        # shellcheck disable=SC2086 # several words
        try "near-$(printf '%s' "$words" | tr ' ' -)" "$folder/of-file.txt" --baseline skip --timeout 900 -- -- $words </dev/null
        cat "$folder/missed.txt" >>"$folder/missed-by-near.txt"
    done <"$folder/files.txt"
    cp "$folder/missed-by-near.txt" "$folder/missed.txt"
}

rm -rf "$folder"
mkdir -p "$folder"
cargo mutants --list --colors never >"$folder/all.txt"
awk -v part="${1%/*}" -v parts="${1#*/}" 'NR % parts == part' "$folder/all.txt" >"$folder/tried.txt"
try quick "$folder/tried.txt" -- quick
try_near
try short "$folder/missed.txt" --baseline skip --timeout 900 -- -- --skip conv2d --skip dense --skip checkpoints --skip cli:: --skip faults \
    --skip crash_points --skip photo --skip training --skip native --skip bench --skip autotune --skip power_loss --skip _page \
    --skip output --skip examples --skip mutants --skip quick
try all "$folder/missed.txt" --baseline skip --timeout 3600 --cargo-arg=--lib --cargo-arg=--bins -- -- --skip examples --skip quick
printf '== %s of %s mistakes are found by no test\n' "$(wc -l <"$folder/missed.txt")" "$(wc -l <"$folder/tried.txt")"
