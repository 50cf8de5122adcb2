#!/bin/bash
# Runs the tests on the oldest, the current and the newest JAX, each in an environment of its own under build/versions:
#
#   scripts/versions.sh [--keep | --make] [NAME...] [-- ARGUMENTS OF PYTEST...]
#
# NAME is oldest, current, newest or nightly. Without a NAME the first three run. The script builds one wheel for each
# Python and installs it, so the tests run what users get. If one environment fails, the others still run, and then the
# command fails. With --keep the script uses an existing environment as it is, which is quicker if only tests have
# changed. With --make it makes the environments and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/find_python.sh
root=$PWD/build/versions
nightly_index=https://us-python.pkg.dev/ml-oss-artifacts-published/jax/simple/  # JAX's own, from its installation page

requirement_of() {
  case $1 in
    oldest) echo "jax==0.7.2" ;;  # the minimum of pyproject.toml
    current) echo "jax==0.10.2" ;;  # the last one for Python 3.11; README's numbers are from it
    newest | nightly) echo "jax" ;;
  esac
}

pythons_of() {  # in order of preference
  case $1 in
    oldest | current) echo "3.11" ;;
    newest | nightly) echo "3.13 3.12" ;;
  esac
}

build_wheel() {  # PYTHON: prints the wheel's path; builds it only once in a run of this script
  local python=$1 tag folder
  tag=$("$python" -c "import sys; print(sys.implementation.cache_tag)")
  folder=$wheels/$tag
  if [ ! -d "$folder" ]; then
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" . >&2
  fi
  echo "$folder"/jax_rnnt-*.whl
}

make_environment() {  # NAME: makes or updates the environment $root/NAME
  local name=$1 python wheel environment=$root/$1
  # shellcheck disable=SC2046
  python=$(find_python $(pythons_of "$name"))
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  wheel=$(build_wheel "$environment/bin/python")
  "$environment/bin/pip" install --quiet --upgrade "$(requirement_of "$name")" "$wheel[test,examples]"
  if [ "$name" = nightly ]; then
    "$environment/bin/pip" install --quiet --upgrade --pre --no-deps --index-url "$nightly_index" jax jaxlib
  fi
  "$environment/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"  # an older wheel may have the same version
}

keep=false
make_only=false
case ${1:-} in
  --keep) keep=true ;;
  --make) make_only=true ;;
esac
if $keep || $make_only; then shift; fi
names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  if [ -z "$(requirement_of "$1")" ]; then
    echo "versions.sh: '$1' is none of oldest, current, newest, nightly; arguments of pytest go behind --" >&2
    exit 2
  fi
  names+=("$1")
  shift
done
[ $# -eq 0 ] || shift
[ ${#names[@]} -gt 0 ] || names=(oldest current newest)

mkdir -p "$root"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
results=()
for name in "${names[@]}"; do
  started=$SECONDS
  $keep && [ -x "$root/$name/bin/pytest" ] || make_environment "$name"
  made=$SECONDS
  if $make_only; then
    results+=("$name: $((made - started)) s to install")
    continue
  fi
  which=$("$root/$name/bin/python" -c "import jax, platform as p; print('jax', jax.__version__, 'on Python', p.python_version())")
  echo "== $name: $which"
  outcome=passed
  JAX_RNNT_REQUIRE_NATIVE=1 "$root/$name/bin/python" -P -m pytest "$@" || outcome=FAILED
  results+=("$name: $which: $outcome ($((made - started)) s to install, $((SECONDS - made)) s of tests)")
done
printf '%s\n' "${results[@]}"
[[ "${results[*]}" != *FAILED* ]]
