#!/usr/bin/env bash
# Runs what has `unsafe` code under Miri, which follows every pointer, under AddressSanitizer, which runs the
# vector instructions that Miri does not know, and under valgrind's memcheck, which also sees memory that is read
# before it is written. Miri needs a nightly toolchain with `miri` and `rust-src`, AddressSanitizer a nightly
# toolchain, memcheck only valgrind.
#
# usage: scripts/unsafe.sh [miri|asan|memcheck]…   (all without an argument)
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
[ $# -gt 0 ] || set -- miri asan memcheck

for tool in "$@"; do
    case $tool in
    miri)
        # The thread pool is never joined, so what it holds at the end is no leak; the pool's own queues turn
        # pointers into integers. Under Miri no vector instructions are found: this is the baseline.
        MIRIFLAGS='-Zmiri-ignore-leaks -Zmiri-permissive-provenance -Zmiri-disable-isolation' \
            CARGO_TARGET_DIR=$target/miri RAYON_NUM_THREADS=2 PROPTEST_CASES=2 \
            cargo +nightly miri test -p pdtrim-core --lib --locked -- kernels::
        ;;
    asan)
        # A target of its own keeps build scripts and macros without the sanitizer. burn-flex is not optimised, as in the
        # fuzz crates: here it is only what kernels are compared with.
        RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$target/asan \
            cargo +nightly test -p pdtrim-core --lib --locked --target x86_64-unknown-linux-gnu \
            --config profile.dev.package.burn-flex.opt-level=0 -- kernels:: gguf shards
        ;;
    memcheck)
        # The program of the ordinary tests. valgrind knows AVX2 and no AVX-512, and says so to the program, which
        # takes the kernels for that. The thread pool is never joined.
        CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='valgrind --quiet --error-exitcode=9 --leak-check=no' \
            RAYON_NUM_THREADS=2 PROPTEST_CASES=4 \
            cargo test --release --workspace --lib --locked -- kernels:: gguf shards
        ;;
    *)
        echo "scripts/unsafe.sh: expected miri, asan or memcheck, found $tool" >&2
        exit 2
        ;;
    esac
done
