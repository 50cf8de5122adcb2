"""The mutants that mutants.py makes of the kernels."""

from typing import NamedTuple

# Headers of operation 2 whose names do not say so.
LATTICE_FILES = ("scaled.cuh", "power.cuh", "runs.cuh", "short_sums.cuh", "short_posteriors.cuh")


class Mutant(NamedTuple):
    name: str
    file: str
    old: str  # must occur exactly once
    new: str
    types: tuple[str, ...] = ("float",)  # of the kernels that are built
    parts: tuple[str, ...] = ()  # of the check that are run; none named: all of the operation

    @property
    def operation(self) -> str:
        """By a file of the other operation, its part in the check shows it."""
        named = self.parts[0] if self.parts else self.file
        return "lattice" if "lattice" in named or self.file in LATTICE_FILES else "arcs"


# Caught by values, by the watcher (races, bounds, alignment), by UBSan or by what the check demands of launches.
BY_CHECK = (
    # Barriers and shuffles
    Mutant("dropped block barrier", "lattice_walk.cuh", "      __syncthreads();\n", ""),
    Mutant("dropped warp barrier", "lattice_walk.cuh", "      __syncwarp();\n", ""),
    Mutant(
        "no barrier behind a vote",
        "lattice_walk.cuh",
        "    Barrier();\n    for (int32_t n = 0;",
        "    for (int32_t n = 0;",
    ),
    Mutant(
        "half a warp in a mask",
        "arcs_forward.cuh",
        "__shfl_xor_sync(kWholeWarp, max,",
        "__shfl_xor_sync(0xffffu, max,",
    ),
    Mutant(
        "lanes of padded rows skip the shuffles",
        "arcs_forward.cuh",
        "    norm = Combine<T, kLanes>(vectors, lane, live, share);",
        "    if (live) norm = Combine<T, kLanes>(vectors, lane, live, share);",
    ),
    Mutant(
        "shuffle distance too short",
        "arcs_forward.cuh",
        "kLanes / 2; distance > 0; distance /= 2) sum",
        "kLanes / 4; distance > 0; distance /= 2) sum",
    ),
    Mutant("sum over a warp that is not there", "lattice_walk.cuh", "lane < warps ?", "lane <= warps ?"),
    # Blocks that share what is one's own
    Mutant(
        "one workspace for all utterances",
        "lattice_walk.cuh",
        "shape.workspace + b * shape.remembered",
        "shape.workspace",
    ),
    Mutant(
        "every lane writes the norm",
        "arcs_forward.cuh",
        "if (lane == 0) Write(operands.norms",
        "Write(operands.norms",
    ),
    Mutant(
        "a vector that ends behind the array",
        "arcs_backward.cuh",
        "operands.aligned ? entries / kSize : 0",
        "operands.aligned ? (entries + kSize - 1) / kSize : 0",
    ),
    # Streams and launches
    Mutant("launch on the default stream", "launch.h", "pointers, shared, stream)", "pointers, shared, nullptr)"),
    Mutant(
        "failed launch not told",
        "launch.h",
        "error == cudaSuccess ? LaunchResult()",
        "error != cudaErrorInvalidValue ? LaunchResult()",
    ),
    Mutant(
        "more blocks than a grid has",
        "launch.h",
        "if (blocks > kMaxBlocks) return",
        "if (blocks < 0) return",
    ),
    Mutant("no launch for one block", "launch.h", "if (blocks == 0) return {};", "if (blocks <= 1) return {};"),
    # Long rows, many columns and moves, large arrays
    Mutant(
        "tiles that begin within a vector",
        "arcs.cu",
        "const int64_t least = Pack<T>::kSize / std::gcd<int64_t>(Pack<T>::kSize, width);",
        "const int64_t least = 1;",
    ),
    Mutant(
        "two rows in a vector at most",
        "arcs_backward.cuh",
        "first < kSize; first += rows.width)",
        "first < kSize; first += kSize)",
    ),
    Mutant(
        "eight columns",
        "rows.cuh",
        "for (int32_t k = 0; k < num_columns; ++k)",
        "for (int32_t k = 0; k < num_columns && k < 8; ++k)",
    ),
    Mutant(
        "an entry for each lane",
        "arcs_forward.cuh",
        "k <= rows.num_columns; k += kLanes)",
        "k <= rows.num_columns; k += 64)",
    ),
    Mutant(
        "sixteen moves",
        "lattice.cc",
        "for (size_t k = 0; k < shape.moves.size(); ++k) {",
        "for (size_t k = 0; k < shape.moves.size() && k < 16; ++k) {",
    ),
    Mutant(
        "threads in 32 bits",
        "arcs_forward.cuh",
        "int64_t{blockIdx.x} * kForwardThreads",
        "blockIdx.x * kForwardThreads",
    ),
    Mutant(
        "rows in 32 bits",
        "arcs_backward.cuh",
        "operands.grad + begin * rows.width",
        "operands.grad + static_cast<uint32_t>(begin) * static_cast<uint32_t>(rows.width)",
    ),
    Mutant(
        "entries in 32 bits",
        "arcs_backward.cuh",
        "operands.cotangent + begin * (rows.num_columns + 1) + r *",
        "operands.cotangent + static_cast<uint32_t>(begin) * static_cast<uint32_t>(rows.num_columns + 1) + r *",
    ),
    Mutant(
        "place in a window in 31 bits",
        "arcs_forward.cuh",
        "(row + window.first, window.size()",
        "(row + (window.first & 0x3fffffff), window.size()",
    ),
    Mutant(
        "utterances in 32 bits",
        "lattice_walk.cuh",
        "size = int64_t{shape.frames_max} * shape.columns * shape.num_arcs;",
        "size = static_cast<uint32_t>(shape.frames_max) * static_cast<uint32_t>(shape.columns * shape.num_arcs);",
    ),
    Mutant(
        "workspace in 32 bits",
        "lattice_walk.cuh",
        "b * shape.remembered",
        "static_cast<uint32_t>(b) * static_cast<uint32_t>(shape.remembered)",
    ),
    Mutant(
        "nodes in 32 bits",
        "lattice_walk.cuh",
        "return (int64_t{t} * shape.columns + u) * NumArcs();",
        "return static_cast<int32_t>(static_cast<uint32_t>((t * shape.columns + u) * NumArcs()));",
    ),
    # Rows
    Mutant(
        "one row too many",
        "arcs_backward.cuh",
        "if (lane < count) DescribeRow",
        "if (lane <= count) DescribeRow",
    ),
    Mutant(
        "vector before the row's beginning",
        "arcs_forward.cuh",
        "begin = beginning < array ? 1 : 0;",
        "begin = 0;",
    ),
    Mutant(
        "vectors that begin with the row",
        "arcs_forward.cuh",
        "beginning = row - head;",
        "beginning = row;",
    ),
    Mutant(
        "last entries of a row forgotten",
        "arcs_forward.cuh",
        "(stop + kSize - 1) / kSize",
        "(stop) / kSize",
    ),
    Mutant(
        "gradient of NaN rows not NaN",
        "arcs_backward.cuh",
        "if (kind == Row::kPadding || broken) {",
        "if (kind == Row::kPadding) {",
    ),
    Mutant(
        "NaN where nothing is asked",
        "arcs_backward.cuh",
        "broken && asked ? kNaN<A> : A(0)",
        "broken ? kNaN<A> : A(0)",
    ),
    Mutant(
        "window at the row's beginning",
        "arcs_forward.cuh",
        "vectors(row + window.first, window.size()",
        "vectors(row, window.size()",
    ),
    Mutant(
        "raw entries normalised",
        "arcs_forward.cuh",
        "rows.window.Holds(column) ? Normalised(x, norm) : x",
        "Normalised(x, norm)",
    ),
    Mutant(
        "cotangents of raw entries spread over the window",
        "arcs_backward.cuh",
        "if (rows.window.Holds(rows.Column(k, label))) total += own;",
        "total += own;",
    ),
    Mutant(
        "softmax beyond the window's end",
        "arcs_backward.cuh",
        "window.Holds(at.before + e) ?",
        "at.before + e >= window.first ?",
    ),
    Mutant(
        "arcs of a window without mass",
        "arcs_backward.cuh",
        "if (!(massless && inside)) own",
        "own",
    ),
    Mutant(
        "a neighbour's entries in a row's sum",
        "arcs_forward.cuh",
        "if (first == 0 && stop >= kSize)",
        "if (first == 0)",
    ),
    Mutant(
        "no barrier before arcs are written",
        "arcs_backward.cuh",
        "  __syncwarp();\n#pragma unroll 1\n  for (int32_t i = lane; i < count * arcs; i += kWarp) {\n",
        "  for (int32_t i = lane; i < count * arcs; i += kWarp) {\n",
    ),
    Mutant(
        "all arcs of an entry write it",
        "arcs_backward.cuh",
        "has = has && other >= k;",
        "",
    ),
    Mutant(
        "rows without a gradient give their NaN to neighbours",
        "arcs_backward.cuh",
        "terms.gradient != Gradient::kSoftmax) {",
        "terms.gradient == Gradient::kConstant) {",
    ),
    Mutant(
        "lanes go on with the row before",
        "arcs_backward.cuh",
        "++next.row;",
        "",
    ),
    Mutant(
        "rounding toward zero",
        "device.cuh",
        "  return Narrow<T>(x);",
        "  if constexpr (sizeof(T) == 2) {\n"
        "    return {static_cast<uint16_t>(BitCast<uint32_t>(x) >> 16)};\n"
        "  } else {\n"
        "    return Narrow<T>(x);\n"
        "  }",
        types=("BFloat16",),
    ),
    # Lattices
    Mutant(
        "length not cut",
        "lattice_walk.cuh",
        "return frames < 0 ? 0 : frames > shape.frames_max ? shape.frames_max : frames;",
        "return frames;",
    ),
    Mutant("stale diagonal", "lattice.cc", "while (depth <= longest_step)", "while (depth < longest_step)"),
    Mutant(
        "any last frame ends a path",
        "lattice_walk.cuh",
        "to_end = to_t == frames && to_u == labels;",
        "to_end = to_t == frames;",
    ),
    Mutant("sums not brought back to [1, 2)", "scaled.cuh", "a.e + power};", "a.e};"),
    Mutant(
        "posterior with its own node's beta",
        "lattice_walk.cuh",
        "walk.Kept(a - u + shape.dt[k], u + shape.du[k])",
        "walk.Kept(a - u + shape.dt[k], u)",
    ),
    # Lattices of short moves
    Mutant("short: dropped barrier of a turn", "short_sums.cuh", "  __syncthreads();\n#else", "#else"),
    Mutant("short: copies not waited for", "short_sums.cuh", "      FinishCopies();\n", ""),
    Mutant("short: a chunk too few in the ring", "short_sums.cuh", "kRing = 2 +", "kRing = 1 +"),
    Mutant("short: one chunk handed on", "short_sums.cuh", "kHandedOn = 2 * kChunk", "kHandedOn = kChunk"),
    Mutant("short: warps side by side", "short_sums.cuh", "chunk = turn - turns.warp;", "chunk = turn;"),
    Mutant(
        "short: slots that no arc has count",
        "short_sums.cuh",
        "ring[i] = -std::numeric_limits<float>::infinity()",
        "ring[i] = 0",
    ),
    Mutant(
        "short: no end of all paths",
        "short_sums.cuh",
        "u < labels ? frames : frames + 1;",
        "u < labels ? frames : frames;",
    ),
    Mutant(
        "short: the value of another step as total",
        "lattice_short.cu",
        "(frames + labels) % kChunk) % kChunk",
        "(frames + labels) % kChunk) / 2",
    ),
    Mutant("short: columns before the lattice", "runs.cuh", "of_group >= 0 && ", ""),
    Mutant("short: columns behind the lattice", "runs.cuh", " && of_group <= labels", ""),
    Mutant("short: frames behind the array", "runs.cuh", "below((before + frames) / kRunsOfRequest)", "below(31)"),
    Mutant("short: frames before the array", "runs.cuh", " & ~below(before / kRunsOfRequest)", ""),
    Mutant("short: runs behind the last one", "runs.cuh", "g + 1 < kGroups || in_last", "true"),
    Mutant("short: NaN not walked anew", "lattice_short.cu", "sums.special || ", ""),
    Mutant("short: masks not walked anew", "lattice_short.cu", "!(end.total.e > -kFarthestPower)", "false"),
    Mutant("short: scores above 0 not walked anew", "lattice_short.cu", "sums.highest > kHighestPower || ", ""),
    Mutant(
        "short: NaN of beta not walked anew",
        "short_posteriors.cuh",
        "if (alpha_special || beta_special)",
        "if (alpha_special)",
    ),
    Mutant(
        "short: a walk for beta changes the cost",
        "short_posteriors.cuh",
        "alpha_special ? shape.cost + b : &ends->other_cost",
        "shape.cost + b",
    ),
    Mutant(
        "short: posterior with its own column's beta",
        "short_posteriors.cuh",
        "+ walk.labels - to_u)",
        "+ walk.labels - u)",
    ),
    Mutant(
        "short: posteriors not divided by the total",
        "short_posteriors.cuh",
        "before.m * after.m * inverse",
        "before.m * after.m",
    ),
    Mutant(
        "short: values of all utterances in one place",
        "short_posteriors.cuh",
        "shape.workspace + b * shape.remembered) +",
        "shape.workspace) +",
    ),
    Mutant(
        "short: more shared memory than there is", "lattice_short.cu", "fits = shared <= SharedOfBlock() && ", "fits = "
    ),
)

# Caught by test_launches.py.
BY_SUITE = (
    Mutant(
        "a handler keeps silent about its launch",
        "errors.h",
        "return result.empty() ? ffi::Error::Success()",
        "return result.size() < 9999 ? ffi::Error::Success()",
    ),
    Mutant(
        "a handler launches on the default stream",
        "lattice_handlers.cc",
        "LatticeSums(stream,",
        "LatticeSums(batch < 0 ? stream : nullptr,",
    ),
)

# Caught by scripts/ptx_rules.py.
BY_NVCC = (
    Mutant("float16 toward zero, by nvcc", "device.cuh", '"cvt.rn.f16x2.f32"', '"cvt.rz.f16x2.f32"', ("Half",)),
    Mutant("bfloat16 toward zero, by nvcc", "device.cuh", '"cvt.rn.bf16x2.f32"', '"cvt.rz.bf16x2.f32"', ("BFloat16",)),
    Mutant(
        "logits through the read-only cache, in place",
        "device.cuh",
        "Read(reinterpret_cast<const uint4*>(from))",
        "__ldg(reinterpret_cast<const uint4*>(from))",
    ),
    Mutant(
        "values that wait among the posteriors through the read-only cache",
        "lattice_walk.cuh",
        "Halves{Read(node), Read(node + 1)}",
        "Halves{__ldg(node), __ldg(node + 1)}",
    ),
    Mutant(
        "no launch bounds",
        "arcs_backward.cuh",
        "__launch_bounds__(kBackwardThreads)",
        "",
    ),
    Mutant(
        "launch bounds below the launch",
        "arcs_forward.cuh",
        "__launch_bounds__(kForwardThreads) ForwardKernel",
        "__launch_bounds__(kForwardThreads / 2) ForwardKernel",
    ),
)
