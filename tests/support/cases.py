"""One table of cases for every implementation. A case has a name, inputs, options and, if known by hand, its costs.

Most cases put several examples into one batch of the same shape. So they share a compiled function, and a bad example
always stands beside good ones, which it must not change.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

T, U, V = 5, 3, 6  # T frames, U labels and V entries of the vocabulary in the common batch
INF = np.inf
NAN = np.nan
# A compilation takes a second or two. So only cases that share the compiled functions of the common batch (the same
# shape, integer types and options) run in every dtype. The others run in float32, and in a 16-bit type where the kernel
# may differ.
ALL = ("float64", "float32", "bfloat16", "float16")
SINGLE = ("float32",)
TWO = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    name: str
    logits: np.ndarray
    targets: np.ndarray
    logit_lengths: np.ndarray
    target_lengths: np.ndarray
    blank: int = -1
    clamp: float = -1.0
    fused: bool = True
    dtypes: Sequence[str] = SINGLE
    costs: Sequence[float] | None = None  # computed by hand, if known
    options: dict = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", {"blank": self.blank, "clamp": self.clamp, "fused": self.fused})

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.logits, self.targets, self.logit_lengths, self.target_lengths


CASES: dict[str, Case] = {}


def random_batch(seed, batch=4, t=T, u=U, v=V, blank=-1, scale=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Random logits, and random labels, none of which is blank."""
    rng = np.random.default_rng(seed if isinstance(seed, int) else zlib.crc32(seed.encode()))
    logits = scale * rng.normal(size=(batch, t, u + 1, v))
    labels = rng.integers(0, max(1, v - 1), size=(batch, u))
    return logits, (labels + (labels >= blank % v)).astype(np.int32)


def lengths(*values: int, dtype=np.int32) -> np.ndarray:
    return np.array(values, dtype)


def add(name: str, logits, targets, logit_lengths, target_lengths, **options) -> None:
    assert name not in CASES
    as_int = [a if isinstance(a, np.ndarray) else lengths(*a) for a in (logit_lengths, target_lengths)]
    CASES[name] = Case(name, logits, targets, *as_int, **options)


def _ordinary() -> None:
    add("ragged", *random_batch("ragged"), (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    add("padding_everywhere", *random_batch("padding_everywhere"), (3, 2, 1, 3), (2, 1, 0, 2), dtypes=ALL)
    add("blank_first", *random_batch("blank_first", blank=0), (5, 5, 2, 4), (3, 1, 2, 0), blank=0)
    add("blank_middle", *random_batch("blank_middle", blank=-4), (5, 3, 4, 5), (3, 3, 2, 3), blank=-4)
    add("clamp_tight", *random_batch("clamp_tight", scale=3), (5, 3, 4, 1), (3, 3, 1, 2), clamp=0.1, dtypes=ALL)
    add("clamp_loose", *random_batch("clamp_loose"), (5, 3, 4, 1), (3, 3, 1, 2), clamp=10.0)
    add("clamp_zero_is_off", *random_batch("clamp_zero", scale=3), (5, 3, 4, 1), (3, 3, 1, 2), clamp=0.0)
    logits, targets = random_batch("log_probs")
    add("log_probs", logits, targets, (5, 3, 4, 1), (3, 3, 1, 2), fused=False, dtypes=ALL)
    add("log_probs_clamp", logits, targets, (5, 3, 4, 1), (3, 3, 1, 2), fused=False, clamp=0.3)
    same = np.full((4, U), 2, np.int32)
    add("repeated_label", random_batch("repeated")[0], same, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    # There are binomial(T_b - 1 + U_b, U_b) paths, and each has T_b + U_b arcs.
    count, steps = np.array([35, 1, 6, 4]), np.array([8, 3, 5, 5])
    hand = steps * np.log(V) - np.log(count)
    add("uniform", np.zeros((4, T, U + 1, V)), same, (5, 3, 3, 4), (3, 0, 2, 1), costs=hand, dtypes=ALL)


def _sizes() -> None:
    add("one_frame", *random_batch("one_frame", t=1), (1, 1, 1, 1), (3, 0, 2, 1))
    add("one_frame_each", *random_batch("one_frame_each"), (1, 1, 1, 1), (3, 0, 2, 1), dtypes=ALL)
    add("no_label_each", *random_batch("no_label_each"), (5, 1, 3, 2), (0, 0, 0, 0), dtypes=ALL)
    add("no_label_columns", *random_batch("no_label_columns", u=0), (5, 1, 3, 0), (0, 0, 0, 0))
    add("no_frames", *random_batch("no_frames", t=0), (0, 0, 0, 0), (0, 1, 2, 3), costs=(0, INF, INF, INF))
    add("empty_batch", *random_batch("empty_batch", batch=0), (), ())
    add("one_example", *random_batch("one_example", batch=1), (4,), (2,))
    add("one_node", *random_batch("one_node", batch=2, t=1, u=0), (1, 0), (0, 0))
    add("only_blank_exists", np.full((2, T, 1, 1), 0.7), np.zeros((2, 0), np.int32), (5, 0), (0, 0), costs=(0, 0))
    only_blank = np.zeros((2, T, 2, 1)), np.zeros((2, 1), np.int32)
    # With V = 1 label 0 is the blank, so it is not valid.
    add("no_label_is_left", *only_blank, (5, 5), (0, 1), costs=(0, NAN))
    add("vocabulary_2", *random_batch("v2", v=2), (5, 3, 4, 1), (3, 3, 1, 2))
    add("vocabulary_28", *random_batch("v28", v=28), (5, 3, 4, 1), (3, 3, 1, 2), dtypes=TWO)
    add("vocabulary_500", *random_batch("v500", v=500), (5, 3, 4, 1), (3, 3, 1, 2), dtypes=TWO)
    add("more_labels_than_frames", *random_batch("wide", batch=2, t=3, u=17, v=9), (3, 2), (17, 11))
    add("more_frames_than_labels", *random_batch("tall", batch=2, t=37, u=2, v=9), (37, 20), (2, 1))


def _corners() -> None:
    add("filler_rows", *random_batch("filler_rows"), (5, 0, 4, 0), (3, 0, 1, 0), dtypes=ALL)
    add("labels_without_frames", *random_batch("labels_without_frames"), (5, 0, 0, 2), (3, 1, 3, 2), dtypes=ALL)
    logits, targets = random_batch("impossible")
    logits[1] = -INF  # example 1: no entry is possible
    logits[2, :, :, V - 1] = -INF  # example 2: blank is possible nowhere
    logits[3, :, 1, targets[3, 1]] = -INF  # example 3: the second label is possible at no frame
    add("impossible", logits, targets, (5, 3, 4, 5), (3, 3, 1, 2), dtypes=ALL)
    add("impossible_clamp", logits, targets, (5, 3, 4, 5), (3, 3, 1, 2), clamp=0.1, dtypes=ALL)
    add("impossible_log_probs", logits, targets, (5, 3, 4, 5), (3, 3, 1, 2), fused=False, dtypes=ALL)
    logits, targets = random_batch("impossible_last_blank")
    logits[0, 4, 3, V - 1] = -INF
    add("impossible_last_blank", logits, targets, (5, 3, 4, 5), (3, 3, 1, 2), dtypes=ALL)
    logits, targets = random_batch("one_way_left")
    logits[:, :, :, V - 1] = -INF
    logits[:, :, U, V - 1] = 0.0  # blank is possible only after the last label, so there is a single path
    add("one_way_left", logits, targets, (5, 3, 4, 1), (3, 3, 3, 3), dtypes=ALL)
    logits, targets = random_batch("dead_rows")
    logits[:, 2, 1] = -INF  # no path may leave this node, but some paths go around it
    add("dead_rows", logits, targets, (5, 3, 4, 5), (3, 3, 2, 2), dtypes=ALL)
    logits, targets = random_batch("masked_vocabulary")
    used = np.zeros((4, V), bool)
    used[:, V - 1] = True
    np.put_along_axis(used, targets, True, -1)
    masked = np.where(used[:, None, None, :], logits, -INF)
    add("masked_vocabulary", masked, targets, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    stand_in = np.where(used[:, None, None, :], logits, -1e30)
    add("minus_1e30_in_unused", stand_in, targets, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)


def _not_finite() -> None:
    same = np.full((4, U), 2, np.int32)
    for name, value in (("nan", NAN), ("plus_inf", INF)):
        logits, targets = random_batch(name)
        logits[1, 0, 0, 2] = value  # the first node
        logits[2, 2, 1, 0] = value  # the last node inside the lattice
        logits[3, 4, 0, V - 1] = value  # no path takes this blank at the last frame, but its row is still read
        add(f"{name}_inside", logits, targets, (5, 5, 3, 5), (3, 3, 1, 2), dtypes=ALL)
        add(f"{name}_inside_clamp", logits, targets, (5, 5, 3, 5), (3, 3, 1, 2), clamp=0.1, dtypes=ALL)
        logits, targets = random_batch(f"{name}_padding")
        good_t, good_u = (5, 3, 0, 2), (2, 3, 0, 0)
        for b in range(4):
            logits[b, good_t[b] :] = value
            logits[b, :, good_u[b] + 1 :] = value
        add(f"{name}_in_padding", logits, targets, good_t, good_u, dtypes=ALL)
        add(f"{name}_in_padding_clamp", logits, targets, good_t, good_u, clamp=0.1, dtypes=ALL)
        unread = random_batch(f"{name}_unread")[0]
        unread[:, :, :, 0] = value  # column 0 is neither blank nor a label
        add(f"{name}_unread_log_probs", unread, same, (5, 3, 4, 1), (3, 3, 1, 2), fused=False, dtypes=ALL)
        read = random_batch(f"{name}_read")[0]
        read[1, 1, 1, 2] = value
        read[2, 0, 0, V - 1] = value
        add(f"{name}_read_log_probs", read, same, (5, 3, 4, 1), (3, 3, 1, 2), fused=False, dtypes=ALL)
    logits, targets = random_batch("nan_behind_a_wall")
    logits[1:, :2] = -INF  # no path gets past the first two frames
    logits[2, 3, 2, 1] = NAN  # this NaN lies behind them, but it is inside the lattice
    add("nan_behind_a_wall", logits, targets, (5, 5, 5, 5), (3, 3, 3, 0), dtypes=ALL)
    logits, targets = random_batch("nan_beside_inf")
    logits[1, 1, 1] = (-INF, NAN, 0, 0, 0, 0)
    logits[2, 1, 1] = (-INF, INF, 0, 0, 0, 0)
    logits[3, 1, 1] = (INF, INF, -INF, NAN, 0, 0)
    add("nan_beside_inf", logits, targets, (5, 5, 5, 5), (3, 3, 3, 3), dtypes=ALL)


def _bad_integers() -> None:
    logits, targets = random_batch("bad_integers")
    add("logit_length_negative", logits, targets, (5, -5, -1, -(2**31)), (3, 3, 0, 2), dtypes=ALL)
    add("logit_length_too_long", logits, targets, (5, 6, 2**31 - 1, 7), (3, 3, 0, 2), dtypes=ALL)
    add("target_length_negative", logits, targets, (5, 3, 4, 0), (3, -5, -1, -(2**31)), dtypes=ALL)
    add("target_length_too_long", logits, targets, (5, 3, 4, 0), (3, 4, 2**31 - 1, 2**30), dtypes=ALL)
    for name, options in (("log_probs", {"fused": False}), ("clamp", {"clamp": 0.1})):
        add(f"logit_lengths_wrong_{name}", logits, targets, (6, 3, -1, 7), (3, 3, 0, 0), **options, dtypes=ALL)
        add(f"target_lengths_wrong_{name}", logits, targets, (5, 3, 4, 0), (4, 3, -1, 9), **options, dtypes=ALL)
    labels = targets.copy()
    # `arc_log_probs` gives -1 and -2 a meaning; the loss does not.
    labels[1, 2], labels[2, 0], labels[3, 1] = V, -1, -2
    add("labels_out_of_range", logits, labels, (5, 3, 4, 5), (3, 3, 1, 2), dtypes=ALL)
    add("labels_out_of_range_log_probs", logits, labels, (5, 3, 4, 5), (3, 3, 1, 2), fused=False, dtypes=ALL)
    labels = targets.copy()
    labels[1, 2], labels[2, 0], labels[3, 1] = 2**31 - 1, -(2**31), -V
    add("labels_far_out_of_range", logits, labels, (5, 3, 4, 5), (3, 3, 1, 2), dtypes=ALL)
    labels = targets.copy()
    labels[1, 2], labels[2, 0] = V - 1, V - 1
    add("label_is_blank", logits, labels, (5, 3, 4, 5), (3, 3, 1, 2), dtypes=ALL)
    add("label_is_blank_clamp", logits, labels, (5, 3, 4, 5), (3, 3, 1, 2), clamp=0.1, dtypes=ALL)
    labels = targets.copy()
    labels[0, 2], labels[1, 1], labels[2, 0], labels[3, 2] = V - 1, -1, 2**31 - 1, -5
    add("bad_labels_in_padding", logits, labels, (5, 3, 4, 5), (2, 1, 0, 2), dtypes=ALL)
    add("bad_labels_without_frames", logits, labels, (0, 0, 0, 0), (3, 2, 0, 2), costs=(NAN, NAN, 0, INF), dtypes=ALL)
    add("all_bad", logits, targets, (-1, 6, 5, 5), (3, 3, 4, -3), costs=(NAN,) * 4, dtypes=ALL)


def _integer_types() -> None:
    logits, targets = random_batch("integer_types")
    wide = np.int64
    # In 32 bits 2**32 + n becomes n, so a length or a label that wraps looks right.
    good_t, good_u = lengths(5, 3, 4, 5, dtype=wide), lengths(3, 3, 1, 2, dtype=wide)
    add("integers_int64", logits, targets.astype(wide), good_t, good_u)
    bad_t = lengths(5, 2**40, 2**32 + 3, -(2**40), dtype=wide)
    add("logit_lengths_beyond_32_bits", logits, targets.astype(wide), bad_t, good_u)
    bad_u = lengths(3, 2**32 + 3, 2**40, -(2**32) + 2, dtype=wide)
    add("target_lengths_beyond_32_bits", logits, targets.astype(wide), good_t, bad_u)
    labels = targets.astype(wide)
    labels[1, 0], labels[2, 0], labels[3, 1] = 2**40, 2**32 + 1, -(2**32) + 1
    add("labels_beyond_32_bits", logits, labels, good_t, good_u)

    unsigned = np.uint64
    labels = targets.astype(np.uint8)
    add("integers_uint8_uint64", logits, labels, good_t.astype(unsigned), good_u.astype(unsigned))
    far = lengths(5, 2**63 + 3, 2**64 - 1, 2**32, dtype=unsigned)
    add("lengths_beyond_63_bits", logits, labels, far, good_u.astype(unsigned))
    labels = labels.copy()
    labels[1, 0] = 255  # -1 in eight signed bits
    add("label_255_of_uint8", logits, labels, good_t.astype(unsigned), good_u.astype(unsigned))

    logits, targets = random_batch("integers_int8", v=300)  # V does not fit the type of the labels
    small = np.minimum(targets, 127).astype(np.int8)
    add("integers_int8_uint8_int16", logits, small, good_t.astype(np.uint8), good_u.astype(np.int16))
    mixed = targets.astype(np.uint16), good_t.astype(np.uint32), good_u.astype(np.int8)
    add("integers_uint16_uint32_int8", logits, *mixed)


def _magnitudes() -> None:
    logits, targets = random_batch("big_logits", scale=1e4)
    add("big_logits", logits, targets, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    logits, targets = random_batch("big_offset")
    add("big_offset", logits + 1e4, targets, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    add("big_negative_offset", logits - 1e4, targets, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    add("tiny_logits", 1e-7 * logits, targets, (5, 3, 4, 1), (3, 3, 1, 2), dtypes=ALL)
    # An overconfident model: its probabilities are far below the smallest float, so exp(alpha) is 0 in linear
    # arithmetic.
    logits, targets = random_batch("overconfident", t=37, u=2, v=9, batch=2)
    add("overconfident_and_wrong", 300 * np.sign(logits), targets, (37, 20), (2, 1))


def _names_of(part) -> set[str]:
    before = set(CASES)
    part()
    return CASES.keys() - before


INTEGER_TYPES = _names_of(_integer_types)
for _part in (_ordinary, _sizes, _corners, _not_finite, _bad_integers, _magnitudes):
    _part()
