"""The pages in docs are correct: their Python runs as printed, and their links lead somewhere."""

import json
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_losses

import jax_rnnt

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


def run(page: str) -> dict:
    """Runs the blocks of the page one after another. Returns the names that they define."""
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.full  # CI runs it beside the build of the site
def test_alignments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    names = run("alignments.md")
    pyplot.close("all")
    labels = jnp.arange(8) < names["lengths"][1][:, None]
    assert ((names["best"].frames >= 0) == labels).all()
    assert ((names["ends"] <= names["lengths"][0][:, None]) | ~labels).all()
    assert (names["best"].cost >= names["cost"]).all()
    assert (names["entropy"] > 0).all()
    assert names["delay"].shape == names["confidence"].shape == (2,)
    assert jnp.isfinite(names["gradient"]).all()
    assert (names["gradient"] != 0).any()
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("lattice.png", "alignment.png", "spectrogram.png"))


@pytest.mark.full  # CI runs it beside the build of the site
def test_coming_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("coming-from.md")
    assert_decoders(names)
    batch = [np.asarray(names[name]) for name in ("logits", "targets", "logit_lengths", "target_lengths")]
    first, last = (reference.rnnt_loss(*batch, blank=blank)[0] for blank in (0, -1))
    wide = np.asarray(names["wide"]), *batch[1:]
    sigma = reference_losses.Regularisers(sigma=0.05)
    multiblank = reference_losses.MultiBlank(big_blanks=(-2, -3, -4), durations=(2, 4, 8))
    of_tokens = reference.rnnt_loss(wide[0][..., :-5], *batch[1:])[0]
    tdt = reference_losses.batch(reference_losses.Tdt(), *wide, sigma)[0]
    expected = {
        "torchaudio_loss": first.mean(),
        "warp_transducer_loss": first.mean(),
        "warp_rnnt_costs": first,
        "nemo_loss": last.mean(),
        "nemo_multiblank_loss": reference_losses.batch(multiblank, wide[0][..., :-2], *batch[1:], sigma)[0].mean(),
        "k2_loss": first.sum(),
        "espnet_loss": first.mean(),
        "optax_costs": first,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(names[name], value, rtol=1e-5, err_msg=name)
    assert names["nemo_tdt_loss"] == pytest.approx(float(tdt.mean()), rel=1e-5) or (
        names["nemo_tdt_loss"] == pytest.approx(float(of_tokens.mean()), rel=1e-5)
    )
    assert float(names["k2_loss"]) < float(names["pruned_loss"]) < 2 * float(names["k2_loss"])
    assert float(names["simple_loss"]) == pytest.approx(float(names["simple_costs"].sum()))
    np.testing.assert_array_equal(names["decoder_in"][1], [0, *batch[1][1, :7], 0, 0, 0])


def assert_decoders(names: dict) -> None:
    """The decoders find what plain loops over frames find, as these libraries have them."""
    encoded, lengths = np.asarray(names["encoded"]), np.asarray(names["logit_lengths"])
    embedding, output = (np.asarray(names["params"][name]) for name in ("embedding", "output"))

    def log_probs(frame: np.ndarray, labels: list[int], blank: int) -> np.ndarray:
        state = np.zeros(encoded.shape[2])
        for label in (blank, *labels):
            state = 0.5 * state + embedding[label]
        logits = np.tanh(frame + state) @ output
        return logits - np.log(np.exp(logits).sum())

    def greedy(b: int, blank: int, most: int) -> list[int]:
        labels: list[int] = []
        for frame in encoded[b, : lengths[b]]:
            for _ in range(most):
                best = int(np.argmax(log_probs(frame, labels, blank)))
                if best == blank:
                    break
                labels.append(best)
        return labels

    def one_per_frame(b: int, beam: int) -> list[int]:
        kept: dict[tuple[int, ...], float] = {(): 0.0}
        for frame in encoded[b, : lengths[b]]:
            tried: dict[tuple[int, ...], float] = {}
            for labels, score in kept.items():
                for label, more in enumerate(log_probs(frame, list(labels), 0)):
                    to = (*labels, label) if label else labels
                    tried[to] = np.logaddexp(tried.get(to, -np.inf), score + more)
            kept = dict(sorted(tried.items(), key=lambda item: -item[1])[:beam])
        return list(max(kept, key=lambda labels: kept[labels] / (len(labels) + 1)))

    for name, plain in (
        ("nemo_greedy", lambda b: greedy(b, 31, 10)),
        ("icefall_greedy", lambda b: greedy(b, 0, 1)),
        ("icefall_beam", lambda b: one_per_frame(b, 4)),
    ):
        found, lengths_found = (np.asarray(x).reshape(2, -1, *x.shape[2:]) for x in names[name][:2])
        for b in range(2):
            best = found[b, 0] if names[name].labels.ndim == 3 else found[b]
            assert best[: lengths_found[b, 0]].tolist() == plain(b), name
    pieces = names["decoder"].hypotheses(names["state"])
    np.testing.assert_array_equal(pieces.labels, names["torchaudio_beam"].labels)
    for name in ("nemo_beam", "icefall_fused", "sherpa_beam"):
        assert jnp.isfinite(names[name].scores).all() and (names[name].scores != names[name].model_scores).any(), name


def test_coming_from_marks_what_is_not_run() -> None:
    # Code of other libraries is in blocks of another language, right behind a line that begins with "Before".
    text = (DOCS / "coming-from.md").read_text()
    blocks = re.findall(r"^(Before.*)\n\n```py\n([^`]*)^```", text, re.MULTILINE)
    assert len(blocks) == text.count("```py\n") >= 8
    for _, block in blocks:
        compile(block, "coming-from.md", "exec")


LOSS_PAGES = {  # the definition of each page's loss
    "rnnt": reference_losses.Rnnt(blank=0),
    "monotonic": reference_losses.Monotonic(blank=0),
    "multiblank": reference_losses.MultiBlank(blank=0, big_blanks=(27, 28), durations=(2, 4)),
    "tdt": reference_losses.Tdt(blank=0, durations=(0, 1, 2)),
    "hat": reference_losses.Hat(blank=0),
}


def test_pages_of_losses() -> None:
    assert sorted(LOSS_PAGES) == sorted(path.stem for path in (DOCS / "losses").glob("*.md"))
    for page, definition in LOSS_PAGES.items():
        names = run(f"losses/{page}.md")
        on = reference_losses.Regularisers(sigma=0.05 if page == "multiblank" else 0)
        (cost,), _ = reference_losses.batch(definition, np.asarray(names["logits"]), *names["batch"], on)
        assert float(names["loss"]) == pytest.approx(cost, rel=1e-5), page
        if "best" in names:
            assert (names["best"].frames >= 0).all()


@pytest.mark.full  # CI runs it beside the build of the site
def test_first_transducer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optax")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    names = run("first-transducer.md")
    pyplot.close("all")
    assert (tmp_path / "number.png").stat().st_size > 5000
    assert capsys.readouterr().out.count("heard as") == 3
    assert names["values"][-1] < 0.3 < 50 < names["values"][0]
    heard, lengths = names["heard"], names["target_lengths"]
    right = [
        heard.labels[b, : heard.lengths[b]].tolist() == names["targets"][b, :n].tolist() for b, n in enumerate(lengths)
    ]
    assert np.mean(right) > 0.9
    for b, n in enumerate(lengths):
        pressed = names["seconds"][b]
        assert (np.diff(pressed[:n]) > 0).all() and pressed[0] >= 0 and (pressed[n:] < 0).all()


def test_the_notebook_is_the_page() -> None:
    script = runpy.run_path(str(DOCS / "make_notebook.py"))
    stored = script["NOTEBOOK"].read_text()
    assert stored == script["notebook"](), "run python docs/make_notebook.py"
    cells = json.loads(stored)["cells"]
    install, *code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert install.startswith("%pip install")
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "first-transducer.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [block.strip() for block in blocks] == code  # test_first_transducer and the build of the site run these


def test_hybrid() -> None:
    pytest.importorskip("optax")
    names = run("hybrid.md")
    costs, ctc_costs, lengths = names["costs"], names["ctc_costs"], names["target_lengths"]
    batch = [np.asarray(names[name]) for name in ("targets", "logit_lengths", "target_lengths")]
    hidden = np.tanh(np.asarray(names["encoded"])[:, :, None] + np.asarray(names["predicted"])[:, None])
    wanted, _ = reference.rnnt_loss(hidden @ np.asarray(names["params"]["joint"]), *batch, blank=0)
    np.testing.assert_allclose(costs, wanted, rtol=1e-5)
    assert float(names["value"]) == pytest.approx(float((0.7 * costs + 0.3 * ctc_costs).sum() / lengths.sum()))
    assert all((np.asarray(g) != 0).any() for g in names["gradient"].values())


@pytest.mark.full  # CI runs it beside the build of the site
def test_sharding() -> None:
    names = run("sharding.md")
    cost, gradient = names["alone"]
    for value in (names["value"], names["value_of_map"], names["value_of_both"]):
        assert float(value) == pytest.approx(float(cost), rel=1e-6)
    for name, axes in (("gradient", ("data",)), ("gradient_of_both", ("data", None, None, "model"))):
        np.testing.assert_allclose(names[name], gradient, atol=1e-6)
        assert tuple(names[name].sharding.spec) == axes
    alone, *mapped = names["of_params"]
    for gradient in mapped:
        np.testing.assert_allclose(gradient, alone, rtol=1e-4, atol=1e-6)
    assert names["states"].shape == (8, 5, 8)


def test_front_page_and_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert jnp.isfinite(run("index.md")["loss"])
    assert set(run("install.md")["info"]) == {*jax_rnnt.build_info()}


def test_flax() -> None:
    pytest.importorskip("flax")
    names = run("flax.md")
    assert all(0 < float(names[name]) < jnp.inf for name in ("value", "linen_value", "tdt_value"))
    assert names["restored"].loss == names["state"].loss


def test_losses() -> None:
    first, second, third = run("losses.md")["values"]
    assert first != second != third


def test_bad_values() -> None:
    names = run("bad-values.md")
    assert int(names["bad"]) == 0
    assert float(names["mean"]) == pytest.approx(float(names["costs"].mean()))


def test_own_topologies() -> None:
    names = run("own-topologies.md")
    np.testing.assert_allclose(names["emitted"].sum(axis=1), [10, 7], rtol=1e-5)
    assert (names["skipping"] < names["cost"]).all()


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted({page.removesuffix(".md") for page in PAGES} - {"index"})


def test_the_reference_has_every_public_name() -> None:
    listed = re.findall(r"^\.\. auto\w+:: (\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    modules = jax_rnnt, jax_rnnt.alignment, jax_rnnt.decoding
    public = [name for module in modules for name in module.__all__ if name not in ("alignment", "decoding")]
    assert sorted(listed) == sorted(public)


@pytest.mark.full  # CI runs it beside the build of the site
def test_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("flax")
    monkeypatch.chdir(tmp_path)
    names = run("decoding.md")
    printed = capsys.readouterr().out
    assert "at frames" in printed and "% sure" in printed
    assert names["found"].labels.shape == (2, 150)
    assert names["best"].scores.shape == (2, 4)
    whole, pieces = names["best"], names["so_far"]
    for b in range(2):  # with whole utterances the decoder also ranks by length
        assert sorted(whole.labels[b].tolist()) == sorted(pieces.labels[b].tolist())
    assert 0 < float(names["expected"]) < 20
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(names["gradient"]))
    for name in ("of_nnx", "of_linen", "with_lm", "with_phrases", "sure"):
        assert jnp.isfinite(names[name].scores).all() and (names[name].lengths > 0).all(), name
    assert (names["added"] < 0).all()
    assert names["lines"].startswith("utterance-1 1 0.000 ") and names["lines"].count("\n") == len(names["first"])
    assert len(names["of_each"].state[0]) == 2
    silent, at_end = names["silence"], names["ended"]
    assert (names["state"].frames == jnp.where(at_end, 0, names["lengths"])).all() and (silent >= 0).all()


def test_memory() -> None:
    names = run("memory.md")
    logits = names["joint"](names["params"], names["encoded"][:, :, None], names["predicted"][:, None])
    dense = jax.jit(lambda x: names["jax_rnnt"].tdt_loss(x, names["targets"], *names["lengths"], durations=(0, 1, 2)))
    assert float(names["value"]) == pytest.approx(float(dense(logits)), rel=1e-5)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((names["gradients"], names["of_params"])))
    assert jnp.allclose(names["logits_of_a_frame"], logits[:, 0, 0], rtol=1e-5)


def test_cuda() -> None:
    names = run("cuda.md")
    hidden = jnp.tanh(names["encoded"][:, :, None] + names["predicted"][:, None])
    assert jnp.allclose(names["logits"], hidden @ names["kernel"], rtol=1e-5)


@pytest.mark.full  # CI runs it beside the build of the site
def test_two_models() -> None:
    pytest.importorskip("optax")
    names = run("two-models.md")
    assert jnp.isfinite(names["value"])
    assert all(jnp.isfinite(x).all() and (x != 0).any() for x in names["gradients"])
    rows, near = (np.asarray(names[name], np.float64)[:, 0, 0] for name in ("rows", "near"))
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (rows, near))
    divergence = (np.exp(log_p) * (np.expm1(log_q - log_p) + log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(names["ours"], divergence, rtol=2e-5)
    assert np.mean(np.asarray(names["theirs"]) < 0) > 0.3
    assert np.median(np.abs(np.asarray(names["theirs"]) - divergence) / divergence) > 1
    errors = {name: float(x) for name, x in names["errors"].items()}
    assert errors["teacher"] < errors["distilled"] < 0.75 * errors["plain"]


@pytest.mark.full  # CI runs it beside the build of the site
def test_sources() -> None:
    names = run("sources.md")
    assert names["rows"] == 50 * 11 + 40 * 8
    assert float(names["packed"]) == pytest.approx(float(names["dense"]), rel=1e-5)
    assert float(names["costs"].mean()) == pytest.approx(float(names["simple_loss"]), rel=1e-5)
    assert float(names["dense"]) <= float(names["pruned"]) < jnp.inf
    assert float(names["loss"]) > float(names["pruned"])


def test_relative_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
            assert ((DOCS / page).parent / target).exists(), f"{page}: {target}"
