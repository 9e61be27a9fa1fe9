#!/usr/bin/env bash
# Runs a command in a memory cgroup of its own: mapped files and everything else together may take so
# much and no more. Needs root, and version 1 or 2 of Linux's cgroups.
#
# usage: scripts/with-memory.sh BYTES COMMAND …
set -euo pipefail
limit=$1
shift
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    group=/sys/fs/cgroup/pdtrim-$$
    mkdir "$group"
    echo "$limit" > "$group/memory.max"
    echo 0 > "$group/memory.swap.max" 2> /dev/null || true
    peak=$group/memory.peak
else
    group=/sys/fs/cgroup/memory/pdtrim-$$
    mkdir "$group"
    echo "$limit" > "$group/memory.limit_in_bytes"
    peak=$group/memory.max_usage_in_bytes
fi
trap 'rmdir "$group" 2> /dev/null || true' EXIT
status=0
(echo "$BASHPID" > "$group/cgroup.procs" && exec "$@") || status=$?
echo "limit $limit bytes, most in use $(cat "$peak" 2> /dev/null || echo unknown), exit code $status" >&2
exit "$status"
