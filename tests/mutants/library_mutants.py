"""Faults of the library that are easily made, a few per kind, and the tests that must notice each."""

from mutant import Mutant

ARCS = "ops/test_arcs.py -k 'native and (vocabulary_sizes or windows or dtypes or masked or zero_cotangents)'"
LATTICE = "ops/test_lattice.py -k 'native and (enumeration or corner or inside or few_frames)'"
LOSSES = "losses/test_losses.py"
OPTIONS = "losses/test_losses_options.py"
SOURCES = "logits/test_sources.py"
AT_0 = "losses/test_derivatives_at_0.py"
RNNT_GRADIENT = "losses/test_gradients.py -k 'native and cotangents'"

MUTANTS = (
    # Labels, lengths and examples
    Mutant(
        "a frame more than T_b",
        "jax_rnnt/core/node_labels.py",
        "inside = jnp.arange(t_max, dtype=jnp.int32)[None, :, None] < t_b",
        "inside = jnp.arange(t_max, dtype=jnp.int32)[None, :, None] <= t_b",
        "losses/test_node_labels.py",
    ),
    Mutant(
        "a length of T + 1 is allowed",
        "jax_rnnt/core/node_labels.py",
        "(t_b > t_max)",
        "(t_b > t_max + 1)",
        "losses/test_node_labels.py",
    ),
    Mutant(
        "an invalid label costs the whole batch",
        "jax_rnnt/core/node_labels.py",
        "jnp.any(used & wrong, axis=1)",
        "jnp.any(used & wrong)",
        "ops/test_isolation.py",
    ),
    # Gradients
    Mutant(
        "sign of the clipped gradient",
        "jax_rnnt/core/pipeline.py",
        "scaled(-posterior, by=cotangent[:, None, None, None])",
        "scaled(posterior, by=cotangent[:, None, None, None])",
        RNNT_GRADIENT,
    ),
    Mutant(
        "clamp after the scale",
        "jax_rnnt/core/pipeline.py",
        "jnp.broadcast_to(static.clamp * jnp.abs(cotangent)[:, None, None], labels.shape)",
        "jnp.full(labels.shape, static.clamp, cotangent.dtype)",
        RNNT_GRADIENT,
    ),
    Mutant(
        "a factor of 0 hides its derivative",
        "jax_rnnt/ops/masking.py",
        "masked = (by == 0) & ~jnp.isfinite(x)",
        "masked = jnp.broadcast_to(by == 0, x.shape)",
        AT_0,
    ),
    Mutant(
        "a cotangent of 0 times NaN",
        "jax_rnnt/ops/masking.py",
        "return by * jnp.where(masked, 0, x)",
        "return by * x",
        LOSSES + " -k cotangents_of_0",
    ),
    Mutant(
        "the clip differentiated where its bound is 0",
        "jax_rnnt/core/pipeline.py",
        "(counts.astype(cotangent.dtype),)",
        "(cotangent,)",
        AT_0,
    ),
    Mutant(
        "a sum of masks is no arc",
        "jax_rnnt/ops/masking.py",
        "jnp.clip(total, -most, most)",
        "total",
        "losses/test_masks.py -k 'two_masks and native or two_masks and sum'",
    ),
    Mutant(
        "NaN of an entry is lost behind a loss's own scores",
        "jax_rnnt/core/arc_scores.py",
        "arcs = arcs + lax.stop_gradient(poison)",
        "arcs = arcs + 0 * lax.stop_gradient(jnp.nan_to_num(poison))",
        LOSSES + " -k 'tdt and values'",
    ),
    # Losses and regularisers
    Mutant(
        "a star over the last frame",
        "jax_rnnt/core/wildcards.py",
        "(t < t_b[:, None, None] - 1)",
        "(t < t_b[:, None, None])",
        LOSSES + " -k wildcard_star",
    ),
    Mutant(
        "a wildcard leads to a node that is not there",
        "jax_rnnt/core/wildcards.py",
        "nodes & (lands | (t + dt >= t_b[:, None, None]))",
        "nodes & (lands | True)",
        "logits/test_pruned.py -k 'no_node and wildcard'",
    ),
    Mutant(
        "a label of TDT that ends the path",
        "jax_rnnt/losses/tdt.py",
        "jnp.where(lands < t_b",
        "jnp.where(lands <= t_b",
        LOSSES + " -k 'tdt and values'",
    ),
    Mutant(
        "the weighted mean divides by the batch",
        "jax_rnnt/core/reduction.py",
        "return _divided(total, jnp.sum(weights))",
        "return total / costs.shape[0]",
        OPTIONS + " -k reductions",
    ),
    # Transformations
    Mutant(
        "vmap forgets where its axis is",
        "jax_rnnt/xla/primitive.py",
        "else jax.numpy.moveaxis(a, d, 0)",
        "else a.reshape(size, -1, *a.shape[2:])",
        "losses/test_transforms.py -k any_axis",
    ),
    Mutant(
        "a result loses its sharding",
        "jax_rnnt/xla/sharding.py",
        "PartitionSpec(*spec[:batch_ndim], *replicated)",
        "PartitionSpec(*(None,) * batch_ndim, *replicated)",
        "meshes/test_sharding_explicit.py -k 'propagate or eager'",
    ),
    Mutant(
        "the partitioner is told of no dimension to divide",
        "jax_rnnt/xla/sharding.py",
        "ir.StringAttr.get(str(batch_ndim))",
        "ir.StringAttr.get(str(0))",
        "meshes/test_sharding_auto.py -k 'divided_batch and gspmd'",
    ),
    Mutant(
        "every device gets the whole batch",
        "jax_rnnt/core/devices.py",
        "batch, whole = PartitionSpec(axes), PartitionSpec()",
        "batch, whole = PartitionSpec(), PartitionSpec()",
        "logits/test_joint_transforms.py -k stays_where_it_is",
    ),
    Mutant(
        "a device takes its part of the vocabulary for the whole",
        "jax_rnnt/logits/dense.py",
        "(*self.logits.shape[:-1], self.logits.shape[-1] * lax.psum(1, self.axis_name))",
        "self.logits.shape",
        "meshes/test_vocabulary.py -k 'values_and_gradients and native'",
    ),
    Mutant(
        "cotangents are not summed over devices",
        "jax_rnnt/logits/dense.py",
        "return lax.psum(cotangent, self.axis_name)",
        "return cotangent",
        "meshes/test_vocabulary.py -k 'values_and_gradients and native'",
    ),
    # Sources
    Mutant(
        "pruned ranges go back",
        "jax_rnnt/logits/pruned.py",
        "forward = lax.cummin(jnp.minimum(best, last), axis=1, reverse=True)",
        "forward = jnp.minimum(best, last)",
        "logits/test_pruned.py",
    ),
    Mutant(
        "additive norms that have underflowed are kept",
        "jax_rnnt/logits/sum_norms.py",
        "least = math.log(width) + math.log(info.tiny) - math.log(info.eps)",
        "least = math.log(width) + math.log(info.tiny) - 2 * math.log(1 / info.eps)",
        "logits/test_additive.py -k 'norms or peaks'",
    ),
    Mutant(
        "the filling of the last tile counts",
        "jax_rnnt/logits/tiles.py",
        "real = start + jnp.arange(rows, dtype=jnp.int32) < count",
        "real = start + jnp.arange(rows, dtype=jnp.int32) <= count",
        "logits/test_joint.py -k tiles_do_not_matter",
    ),
    Mutant(
        "one dropout mask for all nodes",
        "jax_rnnt/logits/joint_rows.py",
        "jax.vmap(jax.random.fold_in, (None, 0))(key, place)",
        "jax.vmap(jax.random.fold_in, (None, 0))(key, 0 * place)",
        "logits/test_joint.py -k dropout",
    ),
    # Two models
    Mutant(
        "divergences by the formula that cancels",
        "jax_rnnt/core/row_divergence.py",
        "near = jnp.abs(d) < _NEAR",
        "near = jnp.abs(d) < 0",
        "losses/test_two_models.py -k nearly_the_same",
    ),
    Mutant(
        "nodes of weight 0 are made",
        "jax_rnnt/core/two_models.py",
        "labels = jnp.where(weight == 0, PADDING, labels)",
        "labels = jnp.where(counts, labels, PADDING)",
        "losses/test_two_models_sources.py -k weight_0",
    ),
    Mutant(
        "the labels of HAT count as the student's gate lets them through",
        "jax_rnnt/core/comparison.py",
        "[(p[:, 1], q[:, 1])]",
        "[(q[:, 1], p[:, 1])]",
        "losses/test_two_models.py -k 'corner and hat'",
    ),
    Mutant(
        "a bad value in one distribution of two spares the other one's gradient",
        "jax_rnnt/core/comparison.py",
        "bad = ~functools.reduce(jnp.logical_and, [pair.good for pair in pairs])",
        "bad = functools.reduce(jnp.logical_and, [~pair.good for pair in pairs])",
        "losses/test_two_models.py -k 'corner and tdt'",
    ),
    # Alignment and decoding
    Mutant(
        "equal hypotheses keep the probability of the best",
        "jax_rnnt/decoding/prefixes.py",
        "top + jnp.log(total)",
        "top",
        "decoding/test_decoding.py -k 'wide_beam and (rnnt or monotonic)'",
    ),
    Mutant(
        "length normalisation by the labels alone",
        "jax_rnnt/decoding/hypotheses.py",
        "(at.length + 1).astype(score.dtype) ** length_normalization",
        "jnp.maximum(at.length, 1).astype(score.dtype) ** length_normalization",
        "decoding/test_decoding.py -k normalisation",
    ),
    Mutant(
        "labels that add to a hypothesis of the beam are not compared",
        "jax_rnnt/decoding/beam_arcs.py",
        " | (there & (best > -jnp.inf))",
        "",
        "decoding/test_decoding_values.py -k loses_nothing",
    ),
    Mutant(
        "a weight of 0 opens closed labels",
        "jax_rnnt/decoding/fusion.py",
        "jnp.where(scores == -jnp.inf, -jnp.inf, weight * scores)",
        "weight * scores",
        "decoding/test_fusion.py -k closed",
    ),
    # The C++ kernels
    Mutant("row maximum left out", "cpp/rows.h", "max[j] == -kInfinity<A> ? A(0) : max[j];", "A(0);", ARCS),
    Mutant("an entry of the overlap twice", "cpp/rows.h", "l >= kLanes - tail", "l >= kLanes - tail - 1", ARCS),
    Mutant(
        "equal maxima count once",
        "cpp/rows.h",
        "if (entries == static_cast<A>(count * n + kTile - count)) return;",
        "if (entries > 0) return;",
        "losses/test_sure_rows.py -k equal_maxima",
    ),
    Mutant(
        "an arc's own entry is not clipped",
        "cpp/arcs.cc",
        "grad[place] = Narrow<T>(Clip(own, limit));",
        "grad[place] = Narrow<T>(own);",
        RNNT_GRADIENT,
    ),
    Mutant(
        "gradient of a broken row without a cotangent",
        "cpp/arcs.cc",
        "kind == Row::kPadding || std::all_of(ct, of_arcs, [](A c) { return c == 0; })",
        "kind == Row::kPadding",
        ARCS,
    ),
    Mutant(
        "bfloat16 is cut, not rounded",
        "cpp/float16.h",
        "(bits + 0x7fffu + (bits >> 16 & 1u)) >> 16",
        "bits >> 16",
        ARCS,
    ),
    Mutant(
        "labels without frames cost nothing",
        "cpp/lattice_rules.h",
        "length_u == 0 ? Outcome<R>{true, 0, 0, 0} : NoPath<R>()",
        "length_u >= 0 ? Outcome<R>{true, 0, 0, 0} : NoPath<R>()",
        LATTICE,
    ),
    Mutant(
        "NaN that only the backward half meets",
        "cpp/lattice.cc",
        "if (sweeps_[0]->poisoned || sweeps_[1]->poisoned) {",
        "if (sweeps_[0]->poisoned) {",
        LATTICE,
    ),
    Mutant(
        "crossing arcs of the longest move forgotten",
        "cpp/lattice.cc",
        "std::max<int64_t>(0, middle - move.step())",
        "std::max<int64_t>(0, middle - 1)",
        LATTICE,
    ),
    Mutant(
        "a zero in float32 becomes a number",
        "cpp/packed.h",
        "return {m == 0.0 ? kZero : value};",
        "return {value};",
        "losses/test_masks.py -k native",
    ),
    Mutant(
        "the last of equal arcs",
        "cpp/best_path.cc",
        "for (int64_t k = 0;; ++k) {\n      const Move& move",
        "for (int64_t k = s.shape.num_arcs() - 1;; --k) {\n      const Move& move",
        "ops/test_best_path.py -k 'ties and native'",
    ),
)
