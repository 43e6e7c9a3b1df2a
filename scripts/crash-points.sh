#!/bin/sh
# Injects a fault into every system call that saves (four errors, and a kill before the call) and into every write of every command to
# standard output and standard error, and checks every folder that a power loss may leave. On the native engine and on the tests' adapter.
#
#   sh scripts/crash-points.sh [TABLES.md] [cpu] [auto]       both devices by default
#
# Writes tables in Markdown: the number of points tried, and of those survived if fewer. The exit code is 1 if a point failed. Takes an hour
# or more; `cargo test` tries a sample. Needs strace, so Linux only.
#
# If FMNIST_TEST_CRASH_SURVIVED names a file, points that survive are added to it, and those in it are not tried again: an interrupted run
# goes on where it stopped. Remove the file when the program has changed.
set -eu
cd "$(dirname "$0")/.."
tables=
case ${1:-} in
-h | --help)
    sed -n '2,11p' "$0"
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
