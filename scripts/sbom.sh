#!/usr/bin/env bash
# Writes a bill of materials of the `pdtrim` binary for this platform, as CycloneDX JSON: every crate in it, with version,
# licence and hash.
#
# usage: scripts/sbom.sh [FILE]   (pdtrim.cdx.json)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-pdtrim.cdx.json}
command -v cargo-cyclonedx > /dev/null || cargo install cargo-cyclonedx --locked
cargo cyclonedx --manifest-path pdtrim-cli/Cargo.toml --format json --spec-version 1.5 --describe binaries \
    --no-build-deps --target "$(rustc --print host-tuple)"
mv pdtrim-cli/pdtrim_bin.cdx.json "$out"
echo "$out"
