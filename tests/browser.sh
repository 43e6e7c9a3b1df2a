#!/bin/sh
# Builds the page with which the tests train in a browser, for wasm32 and WebGPU:
#
#     sh tests/browser.sh DIR
#     FMNIST_TEST_BROWSER=DIR cargo test --release -- browser_page
#
# Needs the target wasm32-unknown-unknown (`rustup target add wasm32-unknown-unknown`) and, once, the network for the crates.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh tests/browser.sh DIR" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")/browser" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
# Not the folder of the program: its settings are others, and each would build the other's crates anew.
export CARGO_TARGET_DIR="$dir/target"
cd "$here"
cargo build --release --lib --target wasm32-unknown-unknown
cargo run --release --quiet --bin bindgen -- "$dir/target/wasm32-unknown-unknown/release/browser.wasm" "$dir"
cp page.html "$dir/index.html"
