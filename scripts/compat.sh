#!/usr/bin/env bash
# Installs the built wheel, without torch, where it must work:
#   beside each protobuf and grpcio that users have: tests/contract/compat_check.py
#   with the `server` extra and nothing that only tests have: scripts/server_extra_check.py
# One environment each, .venv-compat-*, made once and reused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
default=${PYTHON:-python3}

# protobuf, grpcio, Python wished for. 5.29 is what older Ray and vLLM images hold, 6.33 what newer ones do.
rows="
5.29.6 1.71.2 python3.10
6.33.5 1.76.0 $default
7.36.2 1.85.1 $default
"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m pip wheel -qq --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/weightsync-*.whl)
# The other base dependencies at the versions that are pinned; torch stays out, on purpose.
grep -E '^(numpy|safetensors|typing-extensions|xxhash)==' constraints.txt >"$work/base.txt"

# environment NAME PYTHON WISH: sets $venv; makes it anew unless it was made for the same WISH.
environment() {
    venv=$root/.venv-compat-$1
    wish="$("$2" -c 'import sys; print(sys.version.split()[0])') $3"
    if [ "$(cat "$venv/.made-for" 2>/dev/null)" != "$wish" ]; then
        rm -rf "$venv"
        "$2" -m venv "$venv"
    fi
}

while read -r protobuf grpcio python; do
    [ -n "$protobuf" ] || continue
    # A shim for a version that is not installed lies on some PATHs; only one that starts counts.
    "$python" -c '' 2>/dev/null || python=$default
    environment "$protobuf" "$python" "$grpcio $(sha256sum <"$work/base.txt")"
    "$venv/bin/pip" install -qq -c "$work/base.txt" \
        "protobuf==$protobuf" "grpcio==$grpcio" numpy safetensors xxhash
    echo "$wish" >"$venv/.made-for"
    "$venv/bin/pip" install -qq --no-deps --force-reinstall "$wheel"
    # From another directory, so that the wheel is imported and not the working tree.
    (cd "$work" && "$venv/bin/python" -W error "$root/tests/contract/compat_check.py")
done <<<"$rows"

environment server "$default" "$(sha256sum <constraints.txt)"
# The wheel on the path is enough to read its metadata, before anything of it is installed.
PYTHONPATH=$wheel "$venv/bin/python" scripts/server_extra_check.py requirements >"$work/server.txt"
"$venv/bin/pip" install -qq -c constraints.txt -r "$work/server.txt"
echo "$wish" >"$venv/.made-for"
"$venv/bin/pip" install -qq --no-deps --force-reinstall "$wheel"
(cd "$work" && "$venv/bin/python" "$root/scripts/server_extra_check.py")
