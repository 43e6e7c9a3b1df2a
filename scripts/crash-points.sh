#!/bin/sh
# Every system call that saves, failed with four errors, and the program killed before it; every write of every command to its standard
# output and error, failed; every folder that a power loss may leave. All points, on the native engine and on the adapter of the tests.
#
#   sh scripts/crash-points.sh [TABLES.md] [cpu] [auto]       both devices unless named
#
# Tables in Markdown: what was tried, and what was survived where that is less. Exit code 1 if anything was not. Takes an hour or more;
# `cargo test` tries a sample. Needs strace, so Linux only.
set -eu
cd "$(dirname "$0")/.."
tables=
case ${1:-} in
-h | --help)
    sed -n '2,8p' "$0"
    exit 0
    ;;
'' | cpu | auto) ;;
*)
    tables=$1
    shift
    ;;
esac
[ $# -gt 0 ] || set -- cpu auto
written=$(mktemp)
trap 'rm -f "$written"' EXIT
export FMNIST_TEST_CRASH_POINTS=all FMNIST_TEST_CRASH_TABLE="$written" FMNIST_EXPECT_STRACE=1
status=0
for device; do
    FMNIST_TEST_CRASH_DEVICE=$device cargo test --release --test tests -- --test-threads=1 crash_points output_calls power_loss || status=1
done
if [ -n "$tables" ]; then cp "$written" "$tables"; else cat "$written"; fi
exit "$status"
