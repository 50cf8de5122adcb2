#!/bin/bash
# Installs the wheels of dist/ in fresh environments, on each Python with the oldest, the current and the newest jax.
# Runs scripts/smoke_test.py there, with no compiler on PATH. If one environment fails, the script still tries the
# others, and then fails.
#
#   scripts/test_wheels.sh [ARGUMENTS OF smoke_test.py...]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/find_python.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {  # PYTHON REQUIREMENT ARGUMENTS...
  local python=$1 requirement=$2 bin=$work/environment/bin
  shift 2
  # With --no-compile Python compiles a module when it is imported. jax_rnnt is not taken from an index, where its name
  # may be that of another package.
  "$python" -m venv --clear "$work/environment" &&
    PATH=$bin pip install --quiet --no-compile "$requirement" &&
    PATH=$bin pip install --quiet --no-index --find-links dist --only-binary :all: jax_rnnt &&
    PATH=$bin python -P scripts/smoke_test.py "$@"
}

failed=0
for version in 3.11 3.12 3.13; do
  requirements=(jax==0.7.2 jax==0.10.2 jax)
  [ "$version" != 3.11 ] || unset 'requirements[2]'  # 0.10.2 is the newest jax for Python 3.11
  python=$(find_python "$version")
  for requirement in "${requirements[@]}"; do
    check "$python" "$requirement" "$@" || { echo "Python $version, $requirement: FAILED"; failed=$((failed + 1)); }
  done
done
exit "$((failed > 0))"
