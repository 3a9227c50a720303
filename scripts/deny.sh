#!/usr/bin/env bash
# Checks the dependencies with cargo-deny, which is installed into .tools when it is not there. The advisories lie
# outside; where they are out of reach, that is said and the rest is checked.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.20.2
deny=.tools/bin/cargo-deny
if [[ ! -x $deny ]]; then
    echo "installing cargo-deny $VERSION into .tools" >&2
    cargo install cargo-deny --version "$VERSION" --locked --quiet --root .tools
fi
"$deny" --log-level error check bans licenses sources
if "$deny" fetch db >/dev/null 2>&1; then
    "$deny" --log-level error check advisories
else
    echo "the advisory database is out of reach: known vulnerabilities were not checked" >&2
fi
