#!/bin/bash
# Checks the CUDA kernels on a machine without a GPU. g++ builds them for the CPU. The checks compare them with the
# kernels of the CPU, watch for races and accesses out of bounds, and run the suite with them. The script needs g++ with
# libubsan, addr2line and an environment with jax_rnnt[test].
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

step() { printf '\n-- %s (%d s)\n' "$1" "$SECONDS"; }

step "against the CPU kernels of every instruction set, in three orders of threads"
levels=(x86-64)
grep -qw avx2 /proc/cpuinfo && levels+=(x86-64-v3)
grep -qw avx512vl /proc/cpuinfo && levels+=(x86-64-v4)
[ "$(uname -m)" = x86_64 ] || levels=(native)
orders=(forward reverse 11)
for i in 0 1 2; do
  level=${levels[i]:-${levels[0]}}
  echo "$level, ${orders[i]}"
  CUDA_ON_CPU_ORDER=${orders[i]} "$(python tests/cuda_on_cpu/build.py check "$build" "$level")"
done

step "races, accesses out of bounds, undefined behaviour"
check=$(python tests/cuda_on_cpu/build.py check "$build" watched)
CUDA_ON_CPU_ORDER=forward "$check" &
forward=$!
CUDA_ON_CPU_ORDER=reverse "$check"
wait "$forward"

step "the suite, on the CUDA kernels"
python tests/cuda_on_cpu/build.py library "$build/cuda_on_cpu.so"
export JAX_RNNT_CUDA_ON_CPU=$build/cuda_on_cpu.so
CUDA_ON_CPU_ORDER=reverse python -m pytest --quiet -n auto --dist worksteal tests/cuda_on_cpu/test_launches.py \
  tests/ops/test_{arcs,hidden_rows,isolation,lattice,numerics}.py tests/logits/test_additive_joint.py \
  tests/meshes/test_vocabulary.py \
  tests/losses/test_{cases,values,gradients,properties,published,second_order,transforms,masks,losses}.py
