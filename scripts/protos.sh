#!/usr/bin/env bash
# Generates the Python code of proto/weightsync/v1/*.proto.
#   protos.sh write   into proto/, in place of what is there
#   protos.sh check   into a temporary directory; fails where the committed code differs
# Run through `make proto` and `make proto-check`, which build the two environments that it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

api=weightsync/v1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# One generator writes what runs, in its own environment. mypy-protobuf writes the types of the stubs and
# servicers, which protoc leaves untyped; it needs a newer protobuf, so it comes from .venv.
.venv-proto/bin/python -m grpc_tools.protoc -I proto \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc --mypy_grpc_out=quiet,generate_concrete_servicer_stubs:"$out" \
    proto/$api/*.proto

case "${1:-}" in
write)
    rm -f proto/$api/*_pb2*.py proto/$api/*_pb2*.pyi
    cp "$out/$api"/* proto/$api/
    echo "proto: wrote $(find "$out/$api" -type f | wc -l) files into proto/$api"
    ;;
check)
    if ! diff -ru --exclude='*.proto' --exclude='__pycache__' "$out/$api" proto/$api; then
        echo "proto-check: the generated code is not that of the .proto files; run 'make proto'" >&2
        exit 1
    fi
    echo "proto-check: the generated code is fresh"
    ;;
*)
    echo "usage: protos.sh write|check" >&2
    exit 2
    ;;
esac
