#!/usr/bin/env bash
# Kills `pdtrim trim` at random moments and starts the same command again, until it finishes; the plan
# must be the plan of an uninterrupted run, byte for byte.
#
# usage: scripts/kill-trim.sh [KILLS] [flags of `pdtrim trim` …]
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-20}
shift || true
cargo build --release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A copy, so that a build in the meantime does not change what is tested.
bin=$work/pdtrim
cp "${CARGO_TARGET_DIR:-target}/release/pdtrim" "$bin"

run() { "$bin" --quiet trim "$@" > "$work/stdout" 2> "$work/stderr"; }

started=$(date +%s%N)
run --out "$work/whole" "$@"
whole_ms=$((($(date +%s%N) - started) / 1000000))
echo "an uninterrupted run takes $whole_ms ms"

# Each round is a fresh folder, killed once at a moment drawn from the whole run, then run to its end.
failed=0
for ((n = 1; n <= kills; n++)); do
    out="$work/killed-$n"
    after=$((RANDOM * 32768 + RANDOM))
    after=$((after % whole_ms))
    "$bin" --quiet trim --out "$out" "$@" > /dev/null 2>&1 &
    pid=$!
    sleep "$((after / 1000)).$(printf '%03d' $((after % 1000)))"
    if kill -9 "$pid" 2> /dev/null; then state='killed'; else state='had finished'; fi
    wait "$pid" 2> /dev/null || true
    run --out "$out" "$@"
    strays=$(find "$out" -name '.pdtrim-*' | wc -l)
    if cmp -s "$work/whole/plan.toml" "$out/plan.toml" && [ "$strays" -eq 0 ]; then
        same='same plan'
    else
        same="DIFFERENT PLAN or $strays stray files"
        failed=$((failed + 1))
    fi
    printf '%2d  %s after %6d ms  %s\n' "$n" "$state" "$after" "$same"
    rm -rf "$out"
done
echo "$((kills - failed)) of $kills gave the plan of the uninterrupted run"
[ "$failed" -eq 0 ]
