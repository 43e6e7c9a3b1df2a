#!/bin/sh
# Builds the page into web/dist: static files that work from any folder of any web server.
#
#     sh web/build.sh [DIR]
#
# Needs the target wasm32-unknown-unknown (`rustup target add wasm32-unknown-unknown`) and, once, the network for the crates. The data set is
# not part of it: what lies in DIR/data is used, else what the visitor's browser downloads.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-"$here/dist"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$here"
# Not the folder of the program: the settings are others, and each would build the other's crates anew.
export CARGO_TARGET_DIR="$here/../target/web"
# Vector instructions, which every browser of the last years has.
build() {
    RUSTFLAGS="-C target-feature=+simd128" cargo build --release --locked --lib --target wasm32-unknown-unknown --no-default-features --features "$1"
    cargo run --locked --quiet --bin bindgen -- "$CARGO_TARGET_DIR"/wasm32-unknown-unknown/release/fmnist_gpu_web.wasm "$1" "$dir"
}
build page
# What `fmnist-gpu export --format html` puts into its file.
build classifier
cp page/* "$dir"
cp ../templates/page.css "$dir/report.css"
cp ../assets/tiny.safetensors "$dir"
