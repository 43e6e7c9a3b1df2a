#!/bin/sh
# What to do before a commit, the cheapest first: format, lints, documentation, the quick tests. Prints what it runs, and stops at the
# first failure. Continuous integration (.ci/run) also checks other platforms and sets of features, and runs every test.
set -eu
cd "$(dirname "$0")/.."

run() {
    printf '\n== %s\n' "$*"
    "$@"
}

run cargo fmt --check
run cargo clippy --locked --all-targets -- -D warnings
run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
run cargo test --locked --release -- quick
