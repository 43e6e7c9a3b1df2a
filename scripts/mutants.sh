#!/bin/sh
# Plants mistakes in the code, everywhere but in the kernels, and prints those that no test finds: what is in no list of docs/mutants.md
# is a missing test.
#
#   sh scripts/mutants.sh PART/PARTS [OUT]      3/40: every fortieth mistake, beginning with the third; OUT is `mutants` by default
#
# The quick tests run for each mistake, and all others only for those that the quick tests do not find. It can be interrupted, and run in
# parts. Needs `cargo install --locked cargo-mutants`. All mistakes (about nine thousand) take weeks; .cargo/mutants.toml has the options.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
[0-9]*/[0-9]*) part=$1 ;;
*)
    sed -n '2,8p' "$0"
    exit 2
    ;;
esac
out=${2:-mutants}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

# 2: some were missed; 3: some ran too long, which a test noticed.
tried() { cargo mutants --output "$out/$1" --no-shuffle --colors never "$@" || [ $? -eq 2 ] || [ $? -eq 3 ]; }
