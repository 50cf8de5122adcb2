"""The loop over tiles: every turn runs once and in order, in either kind of loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_rnnt.logits import tiles
from jax_rnnt.xla.known_loops import turns_by_digits


@pytest.mark.parametrize("most", [1, 3, 4, 21])
def test_turns_by_digits(most: int) -> None:
    @jax.jit
    def run(turns):
        def turn(i, carry):
            seen, number = carry
            return seen.at[i].set(number), number + 1

        return turns_by_digits(turns, most, turn, (jnp.full(most, -1), 0))

    for turns in range(most + 1):
        seen, number = run(jnp.int32(turns))
        assert number == turns
        np.testing.assert_array_equal(seen, np.where(np.arange(most) < turns, np.arange(most), -1))


@pytest.mark.parametrize("asked", [0, 1, 16, 17, 90])
def test_tiles_of_either_loop(asked: int) -> None:
    """Each place that the mask asks for is real in one tile, at the row that `rows_of_places` says."""
    mask = np.zeros(90, bool)
    mask[np.random.default_rng(asked).permutation(90)[:asked]] = True
    rows = 16

    def tile(carry, place, real):
        number, where = carry
        own = number * rows + jnp.arange(rows, dtype=jnp.int32)
        return number + 1, where.at[jnp.where(real, place, 90)].add(own + 1, mode="drop")

    for by_digits in (False, True):
        start = jnp.int32(0), jnp.full(90, -1, jnp.int32)
        number, where = jax.jit(lambda mask: tiles.over_tiles(mask, rows, tile, start, by_digits=by_digits))(mask)  # noqa: B023
        assert number == -(-asked // rows)
        np.testing.assert_array_equal(where, tiles.rows_of_places(jnp.asarray(mask)))
