#!/bin/sh
# Checks that memory stays flat in a long training run: trains for the given time, stops with one Ctrl-C as a user would, and resumes once.
#
#   sh scripts/soak.sh MINUTES OUT.json [flags for train]     for example: sh scripts/soak.sh 60 soak.json --data-dir DIR
#
# Reads the resident memory of the process every 10 s (VmRSS in /proc, so Linux only). The first tenth of the time is warm-up; after that, the
# medians of the first and the last fifth of the samples are compared. The exit code is 1 if memory grew by more than 2 %.
set -eu
[ $# -ge 2 ] || { sed -n '2,7p' "$0"; exit 2; }
minutes=$1 out=$2
shift 2
program=${FMNIST_GPU:-target/release/fmnist-gpu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$program" train --model mlp --epochs 1000000 --validation-split 0.1 --checkpoint-every 1 --checkpoint-minutes 0.05 --no-report \
    "$@" --out "$work/run" --quiet >"$work/log" 2>&1 &
pid=$!
begin=$(date +%s)
end=$((begin + minutes * 60))
while [ "$(date +%s)" -lt "$end" ] && kill -0 "$pid" 2>/dev/null; do
    sleep 10
    rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status" 2>/dev/null) || break
    [ -z "$rss" ] || echo "$(($(date +%s) - begin)) $rss" >>"$work/samples"
done
kill -INT "$pid" 2>/dev/null || true
status=0
wait "$pid" || status=$?
if [ "$status" -ne 130 ]; then
    echo "training exited with code $status, expected 130:" >&2
    cat "$work/log" >&2
    exit 2
fi
epochs=$(wc -l <"$work/run/history.jsonl")
# Resume for one more epoch.
"$program" train --resume "$work/run" --epochs "$((epochs + 1))" --no-report --quiet >>"$work/log" 2>&1 ||
    { echo "training could not be resumed:" >&2; cat "$work/log" >&2; exit 2; }
device=$(sed -n 's/^ *"device": "\(.*\)",$/\1/p' "$work/run/summary.json")

awk -v epochs="$epochs" -v device="$device" -v out="$out" '
    function median(from, to,    n, i, j, t, v) {
        n = 0
        for (i = from; i <= to; i++) v[++n] = rss[i]
        for (i = 2; i <= n; i++) { t = v[i]; for (j = i - 1; j > 0 && v[j] > t; j--) v[j + 1] = v[j]; v[j + 1] = t }
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    { at[NR] = $1; rss[NR] = $2 }
    END {
        for (warm = 1; at[warm] < at[NR] / 10; warm++) { }
        n = NR - warm + 1
        part = int(n / 5); if (part < 1) part = 1
        first = median(warm, warm + part - 1); last = median(NR - part + 1, NR)
        for (i = warm; i <= NR; i++) {
            if (rss[i] > most) most = rss[i]
            x += at[i]; y += rss[i]; xx += at[i] * at[i]; xy += at[i] * rss[i]
        }
        slope = n > 1 ? 3600 * (n * xy - x * y) / (n * xx - x * x) : 0
        growth = last / first - 1
        printf "{\n  \"device\": \"%s\",\n  \"seconds\": %d,\n  \"epochs\": %d,\n  \"samples\": %d,\n  \"rss_kib_first_sample\": %d,\n  \"rss_kib_first_fifth\": %d,\n  \"rss_kib_last_fifth\": %d,\n  \"rss_kib_most\": %d,\n  \"growth_percent\": %.3f,\n  \"slope_kib_per_hour\": %.0f\n}\n", device, at[NR], epochs, NR, rss[1], first, last, most, 100 * growth, slope >out
        exit growth > 0.02
    }' "$work/samples" && verdict=0 || verdict=1
cat "$out"
exit "$verdict"
