#!/bin/bash
# Checks the CUDA kernels on a machine without a GPU. g++ builds them for the CPU. The checks compare them with the
# kernels of the CPU, watch for races and accesses out of bounds, and run the suite with them. The script needs g++ with
# libubsan, addr2line and an environment with jax_rnnt[test].
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

step() { printf '\n-- %s (%d s)\n' "$1" "$SECONDS"; }

runs=()
check() {  # ORDER KIND: builds the check, and runs it in the background beside the next builds
  local program
  program=$(python tests/cuda_on_cpu/build.py check "$build" "$2")
  CUDA_ON_CPU_ORDER=$1 "$program" > "$build/$2-$1.log" 2>&1 &
  runs+=("$2-$1 $!")
}

step "against the CPU kernels of every instruction set, in three orders of threads; races, accesses out of bounds"
levels=(x86-64)
grep -qw avx2 /proc/cpuinfo && levels+=(x86-64-v3)
grep -qw avx512vl /proc/cpuinfo && levels+=(x86-64-v4)
[ "$(uname -m)" = x86_64 ] || levels=(native)
orders=(forward reverse 11)
check forward watched  # whether there is a race does not depend on the order (watch.h)
for i in 0 1 2; do check "${orders[i]}" "${levels[i]:-${levels[0]}}"; done
outcome=0
for run in "${runs[@]}"; do
  wait "${run#* }" || outcome=1
  echo "${run% *}: $(cat "$build/${run% *}.log")"
done
[ $outcome = 0 ]

step "the suite, on the CUDA kernels"
python tests/cuda_on_cpu/build.py library "$build/cuda_on_cpu.so"
export JAX_RNNT_CUDA_ON_CPU=$build/cuda_on_cpu.so
CUDA_ON_CPU_ORDER=reverse python -m pytest --quiet -n auto --dist worksteal tests/cuda_on_cpu/test_launches.py \
  tests/ops/test_{arcs,hidden_rows,isolation,lattice,numerics}.py tests/logits/test_additive_joint.py \
  tests/meshes/test_vocabulary.py \
  tests/losses/test_{cases,values,gradients,properties,published,second_order,transforms,masks,losses}.py
