#!/usr/bin/env bash
# Installs the built wheel beside each protobuf and grpcio that users have, without torch, and runs
# tests/contract/compat_check.py there. One environment a row, in .venv-compat-<protobuf>, made once and reused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# protobuf, grpcio, Python wished for. 5.29 is what older Ray and vLLM images hold, 6.33 what newer ones do.
rows="
5.29.6 1.71.2 python3.10
6.33.5 1.76.0 ${PYTHON:-python3}
7.36.2 1.85.1 ${PYTHON:-python3}
"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The other base dependencies at the versions that are pinned; torch stays out, on purpose.
grep -E '^(numpy|safetensors|typing-extensions|xxhash)==' constraints.txt >"$work/constraints.txt"
.venv/bin/python -m pip wheel -qq --no-deps --wheel-dir "$work" .

while read -r protobuf grpcio python; do
    [ -n "$protobuf" ] || continue
    # A shim for a version that is not installed lies on some PATHs; only one that starts counts.
    "$python" -c '' 2>/dev/null || python=${PYTHON:-python3}
    venv=.venv-compat-$protobuf
    wish="$("$python" -c 'import sys; print(sys.version.split()[0])') $grpcio"
    if [ "$(cat "$venv/.made-for" 2>/dev/null)" != "$wish" ]; then
        rm -rf "$venv"
        "$python" -m venv "$venv"
        "$venv/bin/pip" install -qq -c "$work/constraints.txt" \
            "protobuf==$protobuf" "grpcio==$grpcio" numpy safetensors xxhash
        echo "$wish" >"$venv/.made-for"
    fi
    "$venv/bin/pip" install -qq --no-deps --force-reinstall "$work"/weightsync-*.whl
    (cd "$work" && "$OLDPWD/$venv/bin/python" -W error "$OLDPWD/tests/contract/compat_check.py")
done <<<"$rows"
