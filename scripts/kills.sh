#!/usr/bin/env bash
# Kills every command that writes files at random moments, starts it again, and compares what it leaves
# with what a run leaves that was not killed; prints a table. On small models made for it.
#
# usage: scripts/kills.sh [KILLS of each command] [SEED]
set -euo pipefail
cd "$(dirname "$0")/.."
PDTRIM_KILLS=${1:-100} PDTRIM_KILLS_SEED=${2:-1} \
    cargo test --release --workspace --locked --test kills -- --include-ignored --nocapture --test-threads 1
