"""Checkpoints by orbax that a run continues from exactly: weights, optimizer state, step, history and settings."""

import copy
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from speech_problems import UserError


class Checkpoints:
    """The newest checkpoints of one run in `folder`."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        )

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        model: nnx.Module,
        optimizer: nnx.Optimizer,
        settings: dict[str, Any],
        history: dict[str, Any],
    ) -> None:
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_arrays(model, optimizer)),
                # Copied: it is written in the background, while the caller appends to the history.
                run=ocp.args.JsonSave(copy.deepcopy({"settings": settings, "history": history})),
            ),
        )

    def restore(self, model: nnx.Module, optimizer: nnx.Optimizer, settings: dict[str, Any]) -> dict[str, Any]:
        """Puts the newest checkpoint into `model` and `optimizer` and returns its history; `settings` must be equal."""
        step = self.latest_step
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint to resume from")
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        changed = [
            f"{name} was {run['settings'].get(name)!r} and is {value!r}"
            for name, value in settings.items()
            if run["settings"].get(name) != value
        ]
        if changed:
            raise UserError(f"{self.folder}: not the same run, so it can't be continued: {'; '.join(changed)}")
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(model, optimizer))
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)))
        nnx.update(model, restored["state"]["model"])
        nnx.update(optimizer, restored["state"]["optimizer"])
        return run["history"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def _arrays(model: nnx.Module, optimizer: nnx.Optimizer) -> dict[str, Any]:
    return {"model": nnx.to_pure_dict(nnx.state(model)), "optimizer": nnx.to_pure_dict(nnx.state(optimizer))}
