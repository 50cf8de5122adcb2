"""Faults of the CUDA kernels that are easily made, a few per kind, and what must notice them."""

from mutant import Mutant

# Caught by values, by the watcher (races, bounds, alignment), by UBSan or by what the check demands of launches.
BY_CHECK = (
    Mutant("dropped block barrier", "cuda/lattice_walk.cuh", "      __syncthreads();\n", ""),
    Mutant("dropped warp barrier", "cuda/lattice_walk.cuh", "      __syncwarp();\n", ""),
    Mutant(
        "no barrier behind a vote",
        "cuda/lattice_walk.cuh",
        "    Barrier();\n    for (int32_t n = 0;",
        "    for (int32_t n = 0;",
    ),
    Mutant(
        "half a warp in a mask",
        "cuda/arcs_forward.cuh",
        "__shfl_xor_sync(kWholeWarp, max,",
        "__shfl_xor_sync(0xffffu, max,",
    ),
    Mutant(
        "one workspace for all utterances",
        "cuda/lattice_walk.cuh",
        "shape.workspace + b * shape.workspace_size",
        "shape.workspace",
    ),
    Mutant(
        "every lane writes the norm",
        "cuda/arcs_forward.cuh",
        "if (lane == 0) Write(operands.norms",
        "Write(operands.norms",
    ),
    Mutant(
        "a vector that ends behind the array",
        "cuda/arcs_backward.cuh",
        "operands.aligned ? entries / kSize : 0",
        "operands.aligned ? (entries + kSize - 1) / kSize : 0",
    ),
    Mutant("launch on the default stream", "cuda/launch.h", "pointers, shared, stream)", "pointers, shared, nullptr)"),
    Mutant(
        "failed launch not told",
        "cuda/launch.h",
        "error == cudaSuccess ? LaunchResult()",
        "error != cudaErrorInvalidValue ? LaunchResult()",
    ),
    Mutant("more blocks than a grid has", "cuda/launch.h", "if (blocks > kMaxBlocks) return", "if (blocks < 0) return"),
    Mutant(
        "no barrier between the parts of a sum",
        "cuda/hidden_rows.cuh",
        "    __syncthreads();\n    if (part == 0",
        "    if (part == 0",
    ),
    Mutant(
        "no barrier in front of the next sums",
        "cuda/hidden_rows.cuh",
        "      }\n    }\n    __syncthreads();\n",
        "      }\n    }\n",
    ),
    Mutant(
        "rows of another tile",
        "cuda/hidden_rows.cuh",
        "Read(operands.row + first), from",
        "0, from",
    ),
    Mutant(
        "rows of the tile in 31 bits",
        "cuda/hidden_rows.cuh",
        "int64_t{row[i]} * operands.vectors",
        "int64_t{row[i] * operands.vectors & 0x7ffffff}",
    ),
    Mutant("the last frame of a tile left out", "cuda/hidden_rows.cuh", "range.last_frame + 1", "range.last_frame"),
    Mutant("one mask for all positions", "cuda/hidden_rows.cuh", "static_cast<uint32_t>(u)", "uint32_t{0}"),
    Mutant("one round less", "cuda/philox.cuh", "round < 10", "round < 9"),
    Mutant("no launch for one block", "cuda/launch.h", "if (blocks == 0) return {};", "if (blocks <= 1) return {};"),
    Mutant(
        "tiles that begin within a vector",
        "cuda/arcs.cu",
        "const int64_t least = Pack<T>::kSize / std::gcd<int64_t>(Pack<T>::kSize, width);",
        "const int64_t least = 1;",
    ),
    Mutant(
        "threads in 32 bits",
        "cuda/arcs_forward.cuh",
        "int64_t{blockIdx.x} * kForwardThreads",
        "blockIdx.x * kForwardThreads",
    ),
    Mutant(
        "rows in 32 bits",
        "cuda/arcs_backward.cuh",
        "operands.grad + begin * rows.width",
        "operands.grad + static_cast<uint32_t>(begin) * static_cast<uint32_t>(rows.width)",
    ),
    Mutant(
        "place in a window in 31 bits",
        "cuda/arcs_forward.cuh",
        "(row + window.first, window.size()",
        "(row + (window.first & 0x3fffffff), window.size()",
    ),
    Mutant(
        "nodes in 32 bits",
        "cuda/lattice_walk.cuh",
        "return (int64_t{t} * shape.num_positions + u) * NumArcs();",
        "return static_cast<int32_t>(static_cast<uint32_t>((t * shape.num_positions + u) * NumArcs()));",
    ),
    Mutant(
        "one row too many", "cuda/arcs_backward.cuh", "if (lane < count) DescribeRow", "if (lane <= count) DescribeRow"
    ),
    Mutant("vectors that begin with the row", "cuda/arcs_forward.cuh", "beginning = row - head;", "beginning = row;"),
    Mutant(
        "gradient of NaN rows not NaN",
        "cuda/arcs_backward.cuh",
        "if (kind == Row::kPadding || broken) {",
        "if (kind == Row::kPadding) {",
    ),
    Mutant(
        "NaN where nothing is asked",
        "cuda/arcs_backward.cuh",
        "broken && asked ? kNaN<A> : A(0)",
        "broken ? kNaN<A> : A(0)",
    ),
    Mutant(
        "softmax beyond the window's end",
        "cuda/arcs_backward.cuh",
        "window.Holds(at.before + e) ?",
        "at.before + e >= window.first ?",
    ),
    Mutant("arcs of a window without mass", "cuda/arcs_backward.cuh", "if (!(massless && inside)) value", "value"),
    Mutant(
        "a neighbour's entries in a row's sum",
        "cuda/arcs_forward.cuh",
        "if (first == 0 && stop >= kSize)",
        "if (first == 0)",
    ),
    Mutant(
        "rows without a gradient give their NaN to neighbours",
        "cuda/arcs_backward.cuh",
        "terms.gradient != Gradient::kSoftmax) {",
        "terms.gradient == Gradient::kConstant) {",
    ),
    Mutant(
        "rounding toward zero",
        "cuda/device.cuh",
        "  return Narrow<T>(x);",
        "  if constexpr (sizeof(T) == 2) return {uint16_t(BitCast<uint32_t>(x) >> 16)};\n  return Narrow<T>(x);",
        types=("BFloat16",),
    ),
    Mutant(
        "length not cut",
        "cuda/lattice_walk.cuh",
        "return length_t < 0 ? 0 : length_t > shape.num_frames ? shape.num_frames : length_t;",
        "return length_t;",
    ),
    Mutant("stale diagonal", "cuda/lattice.cc", "while (depth <= longest_step)", "while (depth < longest_step)"),
    Mutant("short: copies not waited for", "cuda/short_sums.cuh", "    FinishCopies(under_way == 1);\n", ""),
    Mutant(
        "short: a chunk in use while its copies are under way",
        "cuda/short_sums.cuh",
        "Publish(counts.filled, end - under_way, lane)",
        "Publish(counts.filled, end, lane)",
    ),
    Mutant("short: a chunk too few in the ring", "cuda/short_sums.cuh", "kNeeded = 1 +", "kNeeded = 0 +"),
    Mutant(
        "short: copies into chunks in use",
        "cuda/short_sums.cuh",
        "taken.Wait(chunk - ahead)",
        "taken.Wait(chunk - ahead - 1)",
    ),
    Mutant(
        "short: the next warp's values overwritten",
        "cuda/short_sums.cuh",
        "1 : 1 - kChunksHandedOn",
        "1 : -kChunksHandedOn",
    ),
    Mutant(
        "short: a warp does not wait for the one before",
        "cuda/short_sums.cuh",
        "? counts.taken - 1 :",
        "? counts.taken + 1 :",
    ),
    Mutant(
        "short: a count without a warp barrier",
        "cuda/progress.cuh",
        "int32_t lane) {\n  __syncwarp();\n",
        "int32_t lane) {\n",
    ),
    Mutant("short: what one lane has waited for", "cuda/progress.cuh", "#endif\n    __syncwarp();\n", "#endif\n"),
    Mutant("short: positions before the lattice", "cuda/chunk_copies.cuh", "of_group >= 0 && ", ""),
    Mutant(
        "short: frames behind the array",
        "cuda/chunk_copies.cuh",
        "below((before + length_t) / kRunsOfRequest)",
        "below(31)",
    ),
    Mutant("short: NaN not walked anew", "cuda/short_sums.cuh", "return special || ", "return "),
    Mutant("short: scores above 0 not walked anew", "cuda/short_sums.cuh", " || highest > Bounds<R>::kHighest", ""),
    Mutant(
        "short: NaN of beta not walked anew",
        "cuda/short_cost.cuh",
        "of_alpha.at_end > 0 || of_beta.at_end > 0",
        "of_alpha.at_end > 0",
    ),
    Mutant(
        "short: posteriors behind the last frame",
        "cuda/short_posteriors.cuh",
        "if (t + j * kTurnFrames < shape.num_frames)",
        "if (j < kTurns)",
    ),
    Mutant(
        "short: arcs of frames behind the utterance",
        "cuda/short_posteriors.cuh",
        "t + j * kTurnFrames < length_t && ",
        "",
    ),
    Mutant(
        "short: a walk for posteriors changes the cost",
        "cuda/short_cost.cuh",
        "special ? cost : &sums->other_cost",
        "cost",
    ),
    Mutant(
        "short: the cost of posteriors is special at the end",
        "cuda/short_cost.cuh",
        "of_alpha.at_middle > 0 || of_beta.at_middle > 0 ||",
        "of_alpha.at_end > 0 || of_beta.at_end > 0 ||",
    ),
    Mutant(
        "double: NaN among the arcs",
        "cuda/power.cuh",
        "x < B::kLowestArc ? B::kLowestArc : x",
        "x > B::kLowestArc ? x : B::kLowestArc",
        types=("double",),
    ),
    Mutant(
        "double: a high arc is a number",
        "cuda/power.cuh",
        "high ? std::numeric_limits<double>::quiet_NaN() : m",
        "m",
        types=("double",),
    ),
    Mutant(
        "double: an arc of -inf is one",
        "cuda/power.cuh",
        "x < B::kLowestArc ? B::kLowestArc : x",
        "x < B::kLowestArc ? 0 : x",
        types=("double",),
    ),
    Mutant(
        "double: ln 2 in one number",
        "cuda/power.cuh",
        "fma(-n, kLow, fma(-n, kHigh, inside))",
        "fma(-n, kHigh, inside)",
        types=("double",),
    ),
    Mutant("double: powers below 2^-1022", "cuda/power.cuh", "MaxOf(x, -1023)", "MaxOf(x, -2047)", types=("double",)),
    Mutant(
        "double: an exponent's bias",
        "cuda/power.cuh",
        "static_cast<int32_t>(bits >> 52) - 1023",
        "static_cast<int32_t>(bits >> 52) - 1022",
        types=("double",),
    ),
    Mutant(
        "double: half a number copied",
        "cuda/chunk_copies.cuh",
        "CopyLater(to, from, sizeof(R),",
        "CopyLater(to, from, 4,",
        types=("double",),
    ),
    Mutant(
        "double: half the shared memory",
        "cuda/lattice_short.cu",
        "ring) * sizeof(R)",
        "ring) * sizeof(float)",
        types=("double",),
    ),
    Mutant("short: NaN of the first half forgotten", "cuda/short_cost.cuh", "of_alpha.at_middle > 0 || ", ""),
    Mutant("short: NaN of the second half forgotten", "cuda/short_cost.cuh", "of_beta.at_middle > 0 || ", ""),
    Mutant("short: NaN across the middle", "cuda/short_cost.cuh", "sum.m <= std::numeric_limits<R>::max()", "true"),
    Mutant("short: no path across the middle", "cuda/short_cost.cuh", "total.e > -B::kFarthestCrossing", "true"),
    Mutant(
        "short: only the last diagonal crosses", "cuda/short_cost.cuh", "back < utterances.dt[k] +", "back < 1 + 0 *"
    ),
    Mutant(
        "short: an arc beyond the end crosses",
        "cuda/short_cost.cuh",
        "(to_t < length_t || (to_t == length_t && to_u == length_u))",
        "to_t <= length_t",
    ),
    Mutant("short: a row too few is kept", "cuda/short_workspace.cuh", "(last + 1 - depth) / kChunk", "last / kChunk"),
    Mutant("short: too few rows", "cuda/short_workspace.cuh", "kRowMargin = 2 * (kChunk - 1)", "kRowMargin = 1"),
    Mutant("short: a barrier less in the sum of the cost", "cuda/short_cost.cuh", "sum;\n  __syncthreads();", "sum;"),
    Mutant(
        "short: strips before the middle left out",
        "cuda/lattice_short.cu",
        "MinOf(length_u, of_direction.end * kChunk)",
        "MinOf(length_u, of_direction.end)",
    ),
    Mutant(
        "short: strips for more shared memory than there is",
        "cuda/lattice_short.cu",
        "SharedOfSums<R, S>(most, 1) > memory",
        "SharedOfSums<R, S>(1, 1) > memory",
    ),
    Mutant(
        "short: copies further ahead than there is memory for",
        "cuda/lattice_short.cu",
        "  while (ahead > 1 && SharedOfSums<R, S>(warps, ahead) > SharedOfBlock()) --ahead;\n",
        "",
    ),
    Mutant(
        "short: copies further ahead than several blocks have memory for",
        "cuda/lattice_short.cu",
        "  while (ahead > 1 && at_once(ahead) < least) --ahead;\n",
        "",
    ),
    Mutant(
        "short: copies less ahead for no other block",
        "cuda/lattice_short.cu",
        "std::min(wanted, at_once(1))",
        "at_once(1)",
    ),
    Mutant(
        "short: a strip reads another column", "cuda/lattice_short.cu", "(strip - 1) % kColumns", "strip % kColumns"
    ),
    Mutant(
        "short: values between strips taken too early",
        "cuda/short_sums.cuh",
        "give(chunk - ahead - 1)",
        "give(chunk - ahead)",
    ),
    Mutant(
        "short: the last values of a strip left out",
        "cuda/short_sums.cuh",
        "chunk < chunks.end; ++chunk) give",
        "chunk < 0; ++chunk) give",
    ),
)

# Caught by tests/cuda_on_cpu/test_launches.py.
BY_SUITE = (
    Mutant(
        "a handler keeps silent about its launch",
        "cuda/errors.h",
        "return result.empty() ? ffi::Error::Success()",
        "return result.size() < 9999 ? ffi::Error::Success()",
    ),
    Mutant(
        "a handler launches on the default stream",
        "cuda/lattice_handlers.cc",
        "LatticeSums(stream,",
        "LatticeSums(batch < 0 ? stream : nullptr,",
    ),
)

# Caught by tests/nvcc/ptx_rules.py.
BY_NVCC = (
    Mutant(
        "float16 toward zero, by nvcc", "cuda/device.cuh", '"cvt.rn.f16x2.f32"', '"cvt.rz.f16x2.f32"', types=("Half",)
    ),
    Mutant(
        "logits through the read-only cache, in place",
        "cuda/device.cuh",
        "Read(reinterpret_cast<const uint4*>(from))",
        "__ldg(reinterpret_cast<const uint4*>(from))",
    ),
    Mutant(
        "launch bounds below the launch",
        "cuda/arcs_forward.cuh",
        "__launch_bounds__(kForwardThreads) ForwardKernel",
        "__launch_bounds__(kForwardThreads / 2) ForwardKernel",
    ),
)
