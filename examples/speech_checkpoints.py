"""Checkpoints by orbax that a run continues from exactly: weights, optimizer state, step, history and settings."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from speech_problems import UserError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs a traceback of each error that it also raises


class Checkpoints:
    """The newest checkpoints of one run in `folder`."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        folder.mkdir(exist_ok=True)  # orbax would take a file of this name until it writes
        self._manager = ocp.CheckpointManager(folder.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=keep))

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
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_arrays(model, optimizer)),
            # Copied: it is written in the background, while the caller appends to the history.
            run=ocp.args.JsonSave(copy.deepcopy({"settings": settings, "history": history})),
        )
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, model: nnx.Module, optimizer: nnx.Optimizer, settings: dict[str, Any]) -> dict[str, Any]:
        """Puts the newest checkpoint into `model` and `optimizer` and returns its history; `settings` must be equal."""
        step = self.latest_step
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint to resume from")
        run = self._read(step, run=ocp.args.JsonRestore())["run"]
        changed = [
            f"{name} was {run['settings'].get(name)!r} and is {value!r}"
            for name, value in settings.items()
            if run["settings"].get(name) != value
        ]
        if changed:
            raise UserError(f"{self.folder}: not the same run, so it can't be continued: {'; '.join(changed)}")
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(model, optimizer))
        restored = self._read(step, state=ocp.args.StandardRestore(wanted))
        nnx.update(model, restored["state"]["model"])
        nnx.update(optimizer, restored["state"]["optimizer"])
        return run["history"]

    def close(self) -> None:
        """Waits for what is being written."""
        with self._writing():
            self._manager.close()

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # what orbax raises depends on which of the files is damaged
            raise UserError(
                f"{self.folder / str(step)} can't be read ({type(error).__name__}); without this folder --resume"
                " continues from the checkpoint before it, if there is one"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """An error may be that of an earlier `save`, from the background."""
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: tensorstore's, whose last clause is the system's
            reason = str(error).rsplit(": ", 1)[-1].split(" [")[0]
            step = self.latest_step
            kept = "there is no earlier one" if step is None else f"--resume continues after step {step}"
            raise UserError(f"{self.folder}: a checkpoint can't be written: {reason}; {kept}") from error


def _arrays(model: nnx.Module, optimizer: nnx.Optimizer) -> dict[str, Any]:
    return {"model": nnx.to_pure_dict(nnx.state(model)), "optimizer": nnx.to_pure_dict(nnx.state(optimizer))}
