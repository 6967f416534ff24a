#!/usr/bin/env bash
# Compares the .proto files with those that have landed, and fails where a client of theirs would break.
# The base is $PROTO_BASE; else the merge base with origin/main, where that is not HEAD itself; else HEAD~1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skip() {
    echo "buf breaking: skipped, $1"
    exit 0
}

[ -z "${PROTO_BASE:-}" ] || git rev-parse --verify --quiet "$PROTO_BASE^{commit}" >/dev/null || {
    echo "buf breaking: PROTO_BASE=$PROTO_BASE is no commit here" >&2
    exit 2
}
head=$(git rev-parse --verify --quiet HEAD) || skip "git shows no commit here"
base=${PROTO_BASE:-$(git merge-base HEAD origin/main 2>/dev/null || true)}
if [ -z "$base" ] || [ "$base" = "$head" ]; then
    base=$(git rev-parse --verify --quiet HEAD~1) || skip "HEAD has no parent here to compare with"
fi
for path in proto/weightsync/v1 buf.yaml; do
    git cat-file -e "$base:$path" 2>/dev/null || skip "$base has no $path"
done

landed=$(mktemp -d)
trap 'rm -rf "$landed"' EXIT
git archive "$base" proto buf.yaml | tar -x -C "$landed"
.venv/bin/buf breaking --against "$landed"
echo "buf breaking: compatible with $(git rev-parse --short "$base")"
