#!/usr/bin/env bash
# Runs every fuzz target of every crate that has a `fuzz` folder, one after the other, and prints a table. Needs a
# nightly toolchain and cargo-fuzz. What the fuzzer finds on the way is kept in target/fuzz-corpus and built upon by
# the next run; what breaks a target is in the crate's fuzz/artifacts.
#
# usage: scripts/fuzz.sh [SECONDS a target] [TARGET …]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
seconds=${1:-60}
shift || true
wanted=("$@")
built=${CARGO_TARGET_DIR:-$root/target/fuzz}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

is_wanted() {
    [ ${#wanted[@]} -eq 0 ] && return 0
    local name
    for name in "${wanted[@]}"; do [ "$name" = "$1" ] && return 0; done
    return 1
}

# The number after a word of libFuzzer's last status line; nothing if the target did not get that far.
last() { sed -nE "/^#[0-9]/s/.*[[:space:]]$1: ([0-9]+).*/\1/p" "$log" | tail -1; }

row='%-8s %-12s %12s %8s %9s %7s %8s %8s\n'
table=$(printf "$row" crate target executions edges features corpus crashes seconds)
failed=0
for manifest in */fuzz/Cargo.toml; do
    crate=${manifest%%/*}
    targets=$(cd "$crate" && cargo +nightly fuzz list)
    for target in $targets; do
        is_wanted "$target" || continue
        (cd "$crate" && cargo +nightly fuzz build --target-dir "$built" "$target") >&2
        found=$root/target/fuzz-corpus/$crate/$target
        crashes=$crate/fuzz/artifacts/$target
        mkdir -p "$found" "$crashes"
        before=$(find "$crashes" -type f | wc -l)
        started=$(date +%s)
        # Limits of libFuzzer's own come on top of the targets': 20 seconds and 4 GB for one input.
        (cd "$crate" && cargo +nightly fuzz run --target-dir "$built" "$target" "$found" "fuzz/corpus/$target" -- \
            -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1) \
            > "$log" 2>&1 || failed=1
        tail -3 "$log" >&2
        after=$(find "$crashes" -type f | wc -l)
        executions=$(sed -nE 's/^stat::number_of_executed_units: ([0-9]+)$/\1/p' "$log" | tail -1)
        edges=$(last cov)
        features=$(last ft)
        corpus=$(last corp)
        table+=$'\n'$(printf "$row" "${crate#pdtrim-}" "$target" "${executions:-?}" "${edges:-?}" "${features:-?}" \
            "${corpus:-?}" $((after - before)) $(($(date +%s) - started)))
    done
done
echo "$table"
exit "$failed"
