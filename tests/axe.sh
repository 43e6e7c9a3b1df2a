#!/bin/sh
# Fetches axe-core, which the tests of the pages run in Chromium to check their accessibility (MPL-2.0; not part of the program):
#
#     sh tests/axe.sh DIR
#     FMNIST_TEST_AXE=DIR/axe.min.js cargo test --release -- report_page
#
# Does nothing if DIR has it.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh tests/axe.sh DIR" >&2
    exit 2
fi
version=4.14.1
sha256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
[ ! -s "$1/axe.min.js" ] || exit 0
mkdir -p "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -fsSL --retry 3 -o "$work/axe.tgz" "https://registry.npmjs.org/axe-core/-/axe-core-$version.tgz"
echo "$sha256  $work/axe.tgz" | sha256sum -c - >/dev/null
tar -xzf "$work/axe.tgz" -C "$work" package/axe.min.js
mv "$work/package/axe.min.js" "$1/axe.min.js"
