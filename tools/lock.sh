#!/usr/bin/env bash
# Pin every dependency with its hashes: one file per service image, and locks/dev.lock for work and tests.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check uv
compile() {
  "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-header --no-emit-index-url --custom-compile-command "make lock" "$@"
}
for service in api calc dataplane cli; do
  compile --extra "$service" pyproject.toml -o "locks/$service.lock"
done
printf 'hatchling\neditables\n' >"$scratch/build.in"
compile "$scratch/build.in" -o locks/build.lock
compile --all-extras --group test --group lint pyproject.toml "$scratch/build.in" -o locks/dev.lock
# Beside what is there already, for `make test-fuzz` alone.
compile --all-extras --group test --group lint --group fuzz -c locks/dev.lock pyproject.toml -o locks/fuzz.lock
