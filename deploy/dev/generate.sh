#!/usr/bin/env bash
# Generates the Python code of proto/ next to the .proto files. With --verify it changes nothing and fails when the
# committed code is not what the generator makes, or when a generated file has lost its .proto.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

generate() { # generate FOLDER
  find proto -name '*.proto' -print0 | sort -z |
    xargs -0 .gen/bin/python -m grpc_tools.protoc -I proto --python_out="$1" --pyi_out="$1" --grpc_python_out="$1"
}

if [ "${1-}" != --verify ]; then generate proto; exit; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/fresh" "$work/committed"
generate "$work/fresh"
(cd proto && find . -name '*_pb2*.py*' -not -path '*/__pycache__/*' -print0 | tar -cf - --null -T -) | tar -xf - -C "$work/committed"
if ! diff -r -q "$work/committed" "$work/fresh"; then
  echo "generated code is out of date: run \`make gen\` and commit the result" >&2
  exit 1
fi
