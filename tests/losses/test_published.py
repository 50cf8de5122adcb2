"""Values that others have printed, so that the oracle is not the only witness.

The small test and the options test are from warp-transducer (HawkAaron/warp-transducer, also in torchaudio and NeMo).
The gradients with respect to log-probabilities are from awni/transducer's test of the same lattice. The five-frame
lattice with blank last is from NeMo. The costs have 16 digits, the gradients 8 or more.
"""

import numpy as np
import pytest
import reference
import runner

pytestmark = pytest.mark.once


def _numbers(text: str, *shape: int) -> np.ndarray:
    return np.array(text.split(), float).reshape(shape)


SMALL_LOGITS = np.array(
    [
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
    ]
)[None]
SMALL_COST = 4.495666773770733
SMALL_GRADIENT = np.array(
    [
        [
            [-0.13116688, -0.3999269, 0.17703125, 0.17703125, 0.17703125],
            [-0.18572757, 0.12247056, -0.18168412, 0.12247056, 0.12247056],
            [-0.32091254, 0.06269141, 0.06928472, 0.12624499, 0.06269141],
        ],
        [
            [0.05456069, -0.21824276, 0.05456069, 0.05456069, 0.05456069],
            [0.12073959, 0.12073959, -0.48295835, 0.12073959, 0.12073959],
            [-0.6925882, 0.16871116, 0.18645467, 0.16871116, 0.16871116],
        ],
    ]
)[None]
SMALL_COST_BLANK_LAST = 5.095666773770732
SMALL_GRADIENT_BLANK_LAST = np.array(
    [
        [
            [0.17703132, -0.39992708, 0.17703132, 0.17703132, -0.13116692],
            [0.12247062, 0.12247062, -0.181684, 0.12247062, -0.1857276],
            [0.06269141, 0.06269141, 0.06928471, 0.12624498, -0.32091248],
        ],
        [
            [0.05456069, -0.2182428, 0.05456069, 0.05456069, 0.05456069],
            [0.12073967, 0.12073967, -0.48295838, 0.12073967, 0.12073967],
            [0.30741188, 0.16871123, 0.18645471, 0.16871123, -0.83128875],
        ],
    ]
)[None]

OPTIONS_LOGITS = _numbers(
    """
    0.06535690384862791 0.7875301411923206 0.08159176605666074 0.5297155426466327 0.7506749639230854
    0.7541348379087998 0.6097641124736383 0.8681404965673826 0.6225318186056529 0.6685222872103057 0.8580392805336061
    0.16453892311765583 0.989779515236694 0.944298460961015 0.6031678586829663 0.9467833543605416 0.666202507295747
    0.28688179752461884 0.09418426230195986 0.3666735970751962 0.736168049462793 0.1666804425271342 0.7141542198635192
    0.3993997272216727 0.5359823524146038 0.29182076440286386 0.6126422611507932 0.3242405528768486 0.8007644367291621
    0.5241057606558068 0.779194617063042 0.18331417220174862 0.113745182072432 0.24022162381327106 0.3394695622533106
    0.1341595066017014 0.5055615569388828 0.051597282072282646 0.6402903936686337 0.43073311517251 0.8294731834714112
    0.1774668847323424 0.3207001991262245 0.04288308912457006 0.30280282975568984 0.6751777088333762 0.569537369330242
    0.5584738347504452 0.08313242153985256 0.06016544344162322 0.10795752845152584 0.7486153608562472
    0.943918041459349 0.4863558118797222 0.4181986264486809 0.6524078485043804 0.024242983423721887
    0.13458171554507403 0.3663418070512402 0.2958297395361563 0.9236695822497084 0.6899291482654177 0.7418981733448822
    0.25000547599982104 0.6034295486281007 0.9872887878887768 0.5926057265215715 0.8846724004467684 0.5434495396894328
    0.6607698886038497 0.3771277082495921 0.3580209022231813
    """,
    2,
    4,
    3,
    3,
)
OPTIONS_TARGETS = [[1, 2], [1, 1]]
OPTIONS_COSTS = [4.2806528590890736, 3.9384369822503591]
OPTIONS_GRADIENT = _numbers(
    """
    -1.86843902e-01 -6.25548810e-02 2.49398798e-01 -2.03376666e-01 2.02399328e-01 9.77333169e-04 -1.41016081e-01
    7.91234672e-02 6.18926100e-02 -1.15517676e-02 -8.12802389e-02 9.28319991e-02 -1.54257029e-01 2.29432687e-01
    -7.51756504e-02 -2.46593088e-01 1.46404594e-01 1.00188486e-01 -1.29182907e-02 -6.15932420e-02 7.45115355e-02
    -5.59857301e-02 2.19830811e-01 -1.63845062e-01 -4.97626871e-01 2.09239945e-01 2.88386941e-01 1.36048580e-02
    -3.02196294e-02 1.66147724e-02 1.13924511e-01 6.27811998e-02 -1.76705718e-01 -6.67078257e-01 3.67658824e-01
    2.99419403e-01 -3.56343776e-01 -5.53474613e-02 4.11691219e-01 -9.69219357e-02 2.94591039e-02 6.74628317e-02
    -6.35175705e-02 2.76544970e-02 3.58630717e-02 -1.54499024e-01 -7.39420280e-02 2.28441030e-01 -1.66789949e-01
    -8.78955179e-05 1.66877866e-01 -1.72369644e-01 1.05565332e-01 6.68043196e-02 2.38748826e-02 -1.18255816e-01
    9.43809375e-02 -1.04707085e-01 -1.08934477e-01 2.13641584e-01 -3.69844258e-01 1.80118099e-01 1.89726159e-01
    2.57137045e-02 -7.94617534e-02 5.37480488e-02 1.22328237e-01 -2.38788679e-01 1.16460443e-01 -5.98686993e-01
    3.02203178e-01 2.96483815e-01
    """,
    2,
    4,
    3,
    3,
)
# The gradients with respect to the log-probabilities are minus the posteriors of the arcs.
OPTIONS_LOG_PROB_GRADIENT = _numbers(
    """
    -0.4322264564338117 -0.5677735435661883 0.0 -0.36565009313836844 0.0 -0.20212345042782007 -0.20212345042782007 0.0
    0.0 -0.16521672442463506 -0.2670097320091765 0.0 -0.3943653886107811 0.0 -0.2382944365367636 -0.44041788696458367
    0.0 0.0 -0.052129794015740985 -0.11308693040889405 0.0 -0.18313786985332664 0.0 -0.3243144491663483
    -0.7647323361309323 0.0 0.0 0.0 -0.052129794015740985 0.0 0.0 0.0 -0.23526766386906767 -1.0 0.0 0.0
    -0.7161424128232795 -0.2838575871767207 0.0 -0.18382932237365335 -0.10002826480306751 0.0 -0.10002826480306751 0.0
    0.0 -0.41121794618117213 -0.3049244666421072 0.0 -0.3295759402552584 -0.15917784876050195 0.0 -0.2592061135635692
    0.0 0.0 -0.11607642141651396 -0.29514152476465827 0.0 -0.2865333615432337 -0.3381841034766833 0.0
    -0.5973902170402529 0.0 0.0 0.0 -0.11607642141651396 0.0 0.0 -0.4026097829597475 0.0 -1.0 0.0 0.0
    """,
    2,
    4,
    3,
    3,
)

BLANK_LAST_LOGITS = _numbers(
    """
    0 1 3 0 2 3 1 1 3 2 3 2 0 0 1 0 1 1 1 0 1 2 2 0 0 2 5 0 3 5 1 2 5 2 4 4 0 3 4 0 4 4 1 3 4 2 5 3 2 2 1 2 3 1 3 2 1
    4 4 0
    """,
    1,
    5,
    4,
    3,
)
BLANK_LAST_COST = 6.789285182952881
BLANK_LAST_GRADIENT_AT_0_0 = [-0.03551076725125313, 0.11419519782066345, -0.07868456840515137]
BLANK_LAST_GRADIENT_AT_4_3 = [0.4954628646373749, 0.4954628646373749, -0.9909257292747498]

# (logits, targets, options, costs, gradient)
PUBLISHED = {
    "small": (SMALL_LOGITS, [[1, 2]], {"blank": 0}, [SMALL_COST], SMALL_GRADIENT),
    "small_blank_last": (
        SMALL_LOGITS,
        [[1, 2]],
        {"blank": -1},
        [SMALL_COST_BLANK_LAST],
        SMALL_GRADIENT_BLANK_LAST,
    ),
    "options": (OPTIONS_LOGITS, OPTIONS_TARGETS, {"blank": 0}, OPTIONS_COSTS, OPTIONS_GRADIENT),
    "options_log_probs": (
        np.log(reference.softmax(OPTIONS_LOGITS)),
        OPTIONS_TARGETS,
        {"blank": 0, "fused": False},
        OPTIONS_COSTS,
        OPTIONS_LOG_PROB_GRADIENT,
    ),
}
# The costs are exact to f64. Those who printed the gradients computed them in f32.
COST_RTOL = {"float64": 1e-14, "float32": 2.5e-7}
GRADIENT_ATOL = 5e-7


def _full_lengths(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    batch, frames, nodes, _ = logits.shape
    return np.full(batch, frames, np.int32), np.full(batch, nodes - 1, np.int32)


@pytest.mark.full(implementation="lax")
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float64") for name in PUBLISHED), ("small", "float32"), ("options", "float32")]
)
def test_published_costs_and_gradients(name: str, dtype: str, implementation: str) -> None:
    logits, targets, options, costs, gradient = PUBLISHED[name]
    targets = np.array(targets, np.int32)
    result = runner.evaluate(implementation, logits, targets, *_full_lengths(logits), **options, dtype=dtype)
    np.testing.assert_allclose(result.cost, costs, rtol=COST_RTOL[dtype])
    np.testing.assert_allclose(result.cost_alone, costs, rtol=COST_RTOL[dtype])
    np.testing.assert_allclose(result.gradient, gradient, rtol=0, atol=GRADIENT_ATOL)


def test_five_frames_blank_last(implementation: str) -> None:
    targets = np.array([[0, 1, 0]], np.int32)
    lengths = _full_lengths(BLANK_LAST_LOGITS)
    result = runner.evaluate(implementation, BLANK_LAST_LOGITS, targets, *lengths, dtype="float32")
    np.testing.assert_allclose(result.cost, BLANK_LAST_COST, rtol=2.5e-7)
    np.testing.assert_allclose(result.gradient[0, 0, 0], BLANK_LAST_GRADIENT_AT_0_0, atol=GRADIENT_ATOL)
    np.testing.assert_allclose(result.gradient[0, 4, 3], BLANK_LAST_GRADIENT_AT_4_3, atol=GRADIENT_ATOL)


@pytest.mark.parametrize("name", PUBLISHED)
def test_oracle_gives_the_published_values(name: str) -> None:
    logits, targets, options, costs, gradient = PUBLISHED[name]
    cost, actual = reference.rnnt_loss(logits, targets, *_full_lengths(logits), **options)
    np.testing.assert_allclose(cost, costs, rtol=1e-14)
    np.testing.assert_allclose(actual, gradient, rtol=0, atol=GRADIENT_ATOL)
