#!/bin/bash
# Builds the C++ kernels with sanitizers and runs them with hostile inputs. Then checks the stated errors of the fast
# functions. It needs g++ with libasan, libubsan and libtsan.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
flags="-std=c++17 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp-simd -Wall -Wextra -Werror -Icpp -pthread"
kernels="tests/cpp/hostile_inputs.cc cpp/arcs.cc cpp/lattice.cc cpp/best_path.cc cpp/float16.cc"

names=() jobs_of=()
compile_and_run() {  # NAME FLAGS... SOURCES...: builds and runs a program in the background
  local name=$1
  shift
  names+=("$name")
  # shellcheck disable=SC2086
  { g++ $flags "$@" -o "$build/$name" && "$build/$name"; } >"$build/$name.log" 2>&1 &
  jobs_of+=($!)
}

report() {  # waits for the programs and prints their output in order; fails if one of them failed
  local i outcome=0
  for i in "${!names[@]}"; do
    wait "${jobs_of[$i]}" || outcome=1
    echo "== ${names[$i]}"
    cat "$build/${names[$i]}.log"
  done
  return $outcome
}

export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
# shellcheck disable=SC2086
compile_and_run address-undefined -O0 -g -DJAX_RNNT_NO_CLONES -fsanitize=address,undefined -fno-sanitize-recover=all $kernels
# shellcheck disable=SC2086
compile_and_run thread -O0 -g -DJAX_RNNT_NO_CLONES -fsanitize=thread $kernels
# Checks the contract of the loops. The check must notice two mutants: a serial path that runs only the first piece,
# and a loop that drops the last piece.
compile_and_run parallel -O1 -g -fsanitize=thread tests/cpp/parallel_check.cc
mutant() {  # NAME OLD NEW: replaces OLD by NEW in parallel.h, and runs the check, which must fail
  mkdir -p "$build/$1" && cp cpp/*.h "$build/$1"
  sed "s/$2/$3/" cpp/parallel.h >"$build/$1/parallel.h"
  ! cmp -s cpp/parallel.h "$build/$1/parallel.h" || { echo "$1: the text is not there"; exit 1; }
  g++ -std=c++17 -O1 -pthread -I"$build/$1" tests/cpp/parallel_check.cc -o "$build/$1/check"
  ! "$build/$1/check" >"$build/$1/log" 2>&1 || { echo "not caught: $1"; exit 1; }
  echo "mutant caught: $1: $(head -1 "$build/$1/log")"
}
mutant serial-first-piece-only "c < chunks; ++c) f(piece(c))" "c < std::min<int64_t>(chunks, 1); ++c) f(piece(c))"
mutant last-piece-dropped "const int64_t chunks = (n + grain - 1) \\/ grain" "const int64_t chunks = n \\/ grain"

compile_and_run fast-functions -O3 tests/cpp/fast_exp_check.cc cpp/float16.cc
if [ "$(uname -m)" = x86_64 ]; then
  compile_and_run fast-functions-fma -O3 -march=x86-64-v3 tests/cpp/fast_exp_check.cc cpp/float16.cc
fi
report
