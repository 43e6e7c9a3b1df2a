#!/bin/sh
# Fuzzes one target for the given time, from the seeds and the inputs that earlier runs added in work/; the log and the CPU time go there too.
# A finding (in artifacts/TARGET/) does not stop the run.
#
#   sh run.sh TARGET SECONDS
#
# Build the targets first, with cargo-fuzz (`cargo install cargo-fuzz`) on the stable toolchain: `RUSTC_BOOTSTRAP=1 cargo fuzz build`.
set -eu
cd "$(dirname "$0")"
target=$1
end=$(($(date +%s) + $2))
mkdir -p "work/$target/corpus" "artifacts/$target"
left=$2
while [ "$left" -gt 0 ]; do
    "${FUZZ_BIN:-target/x86_64-unknown-linux-gnu/release}/$target" -max_total_time="$left" -rss_limit_mb=2048 -malloc_limit_mb=1600 \
        -timeout=300 -max_len=65536 -print_final_stats=1 -artifact_prefix="artifacts/$target/" "work/$target/corpus" "corpus/$target" \
        >>"work/$target/log" 2>&1 || echo "FOUND, exit code $?" >>"work/$target/log"
    left=$((end - $(date +%s)))
    times >>"work/$target/cpu"
done
