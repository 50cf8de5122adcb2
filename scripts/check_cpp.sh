#!/bin/bash
# Builds the C++ kernels with sanitizers and runs them over hostile inputs; then checks the stated errors of the fast
# functions. Needs g++ with libasan, libubsan and libtsan.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
flags="-std=c++17 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp-simd -Wall -Wextra -Werror -Icpp -pthread"
kernels="tests/cpp/hostile_inputs.cc cpp/arcs.cc cpp/lattice.cc cpp/float16.cc"

compile_and_run() {  # NAME FLAGS... SOURCES...
  local name=$1
  shift
  echo "== $name"
  # shellcheck disable=SC2086
  g++ $flags "$@" -o "$build/$name"
  "$build/$name"
}

export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
# shellcheck disable=SC2086
compile_and_run address-undefined -O1 -g -DJAX_RNNT_NO_CLONES -fsanitize=address,undefined -fno-sanitize-recover=all $kernels
# shellcheck disable=SC2086
compile_and_run thread -O1 -g -DJAX_RNNT_NO_CLONES -fsanitize=thread $kernels
compile_and_run fast-functions -O3 tests/cpp/fast_exp_check.cc cpp/float16.cc
if [ "$(uname -m)" = x86_64 ]; then
  compile_and_run fast-functions-fma -O3 -march=x86-64-v3 tests/cpp/fast_exp_check.cc cpp/float16.cc
fi
