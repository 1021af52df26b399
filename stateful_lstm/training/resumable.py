"""``Resumable``: a training that is saved to a checkpoint, and continues from it bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import Window
from . import checkpoint, rng, sharded, states
from .checkpoint import CheckpointError
from .losses import Losses
from .objective import Objective
from .window_source import Source, fingerprint


class Loaded(NamedTuple):
    """The parts of a checkpoint that the next fit needs."""

    position: Mapping[str, Any]
    random: Mapping[str, Any] | None  # random generators at the time of the save
    beginning: Mapping[str, Any] | None  # and at the start of its epoch, without a position
    last: int | None  # fingerprint of its last window, without a position


class Resumable:
    """The parts and the progress of a training: all that a checkpoint holds.

    Args:
        model: as the Trainer has it, wrapped or not.
        optimizer: of its parameters.
        objective: runs the model.
        scheduler: of the optimizer, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        scheduler: Any,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.objective, self.scheduler = objective, scheduler
        self.updates = 0  # in total, those before a loaded checkpoint included
        self.epoch = 0  # finished epochs of the running fit, or else of the last fit
        self.position: Mapping[str, Any] = {}  # of the data, after the last window
        scaled = objective.autocast == torch.float16
        self._scaler = torch.amp.GradScaler(objective.device.type, enabled=scaled)
        self._losses = Losses()
        self._epoch = 0  # finished epochs of the running fit, 0 between two fits
        self._history: list[float] = []  # mean losses of the running fit's epochs
        self._seen = 0  # windows of the running epoch
        self._last: Window | None = None  # the last of these windows
        self._source: Source | None = None  # of the running fit
        self._loaded: Loaded | None = None  # of a checkpoint, until training continues

    def _save(self, path: Path) -> None:
        """Writes a file, or with many ranks a folder: see ``Trainer.save``."""
        self._losses.wait()
        progress = self._progress()
        rows = states.read(self.objective.bare)
        mine = {"rng": rng.capture(), "beginning": self._beginning()}
        alone = self.objective.group is None
        if alone and not sharded.whole(path).is_dir():
            checkpoint.write(
                path,
                {
                    "model": self.objective.bare.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "states": rows,
                    "progress": progress,
                    **mine,
                },
            )
        elif alone and sharded.world()[1] > 1:
            raise IsADirectoryError(
                f"{path} is a folder, but each rank trains its own model: expected a file per rank"
            )
        else:
            sharded.save(
                path,
                self.model,
                self.optimizer,
                rows,
                {"progress": progress},
                mine,
            )

    def _beginning(self) -> Mapping[str, Any] | None:
        """The random generators at the running epoch's start; None for data with a position."""
        if self._loaded is not None:
            return self._loaded.beginning
        source = self._source_without_position()
        return None if source is None else source.beginning

    def _load(self, path: Path) -> None:
        """Checks a checkpoint, then takes it over: see ``Trainer.load``."""
        path = sharded.whole(path)
        names = ["model", "optimizer", "states", "progress"]
        mine: Mapping[str, Any] | None
        if path.is_dir():
            contents, rows, mine = sharded.load(path, self.model, self.optimizer, names)
        else:
            contents = mine = checkpoint.read(path, [*names, "rng", "beginning"])
            rows = contents["states"]
            checkpoint.check_model(self.objective.bare.state_dict(), contents["model"], path)
            checkpoint.check_optimizer(self.optimizer.state_dict(), contents["optimizer"], path)
            if self.objective.group is not None:
                rows = sharded.share_out(rows, path)
                mine = contents if sharded.world()[0] == 0 else None
        self._check_progress(contents["progress"], path)
        random, beginning = (None, None) if mine is None else (mine["rng"], mine["beginning"])
        before, epoch = self._everything(), self.epoch
        apply = self._apply
        if path.is_dir():
            apply = partial(sharded.apply, self.model, self.optimizer)
        elif self.objective.group is not None:
            own = self._parameter_names()
            apply = partial(sharded.apply_whole, self.model, self.optimizer, names=own)
        try:
            self._take(contents, rows, random, apply)
        except Exception as error:
            self._take(*before, self._apply)
            self.epoch = epoch
            raise CheckpointError(f"{path} does not fit: {error}") from error
        last = contents["progress"]["last"]
        self._loaded = Loaded(self.position, random, beginning, last)

    def _progress(self) -> dict[str, Any]:
        """Plain values, the same on all ranks."""
        return {
            "updates": self.updates,
            "epoch": self._epoch,
            "seen": self._seen,
            "last": self._fingerprint(),
            "position": dict(self.position),
            "history": list(self._history),
            "loss": [self._losses.last, self._losses.sum, self._losses.count],
            "kinds": [type(self.optimizer).__name__, type(self.scheduler).__name__],
            "parameters": self._parameter_names(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def _fingerprint(self) -> int | None:
        """The fingerprint of the last window; None for data with a position."""
        if self._loaded is not None:
            return self._loaded.last
        if self._source_without_position() is None or self._last is None:
            return None
        return fingerprint(self._last)

    def _source_without_position(self) -> Source | None:
        """The source of the running fit, if its windows have no position."""
        return None if self._source is None or self._source.has_position else self._source

    def _parameter_names(self) -> list[list[str]]:
        """The parameters' names in each of the optimizer's groups; "" for a foreign parameter."""
        names = {p: name for name, p in self.objective.bare.named_parameters()}
        groups = self.optimizer.param_groups
        return [[names.get(p, "") for p in group["params"]] for group in groups]

    def _check_progress(self, progress: Any, path: Path) -> None:
        own = self._progress()
        counts = ("updates", "epoch", "seen")
        if (
            not isinstance(progress, Mapping)
            or set(progress) != set(own)
            or not all(isinstance(progress[name], int) for name in counts)
            or not all(isinstance(progress[name], list) for name in ("history", "kinds"))
            or not isinstance(progress["position"], Mapping)
        ):
            raise CheckpointError(f"{path} does not contain the progress of a training")
        for part, saved, has in zip(
            ("optimizer", "scheduler"), progress["kinds"], own["kinds"], strict=True
        ):
            if saved != has and "NoneType" not in (saved, has):
                raise CheckpointError(f"{path} is of another {part}: expected {has}, got {saved}")
        saved, has = progress["parameters"], own["parameters"]
        if path.is_dir():  # by name, so that their order does not matter
            saved, has = ([sorted(group) for group in groups] for groups in (saved, has))
        if saved != has:
            raise CheckpointError(
                f"{path} is of another optimizer: expected the parameters {has}, got {saved}"
            )
        for part, text in (("scheduler", "a scheduler"), ("scaler", "scaled gradients")):
            if bool(own[part]) != bool(progress[part]):
                has, lacks = ("this trainer", path) if own[part] else (path, "this trainer")
                raise CheckpointError(f"{has} has {text}, {lacks} has none")

    def _everything(self) -> tuple[dict[str, Any], Any, Mapping[str, Any]]:
        """Copies of all values that :meth:`_take` sets."""
        contents = {
            "model": self.objective.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self._progress(),
        }
        return deepcopy(contents), states.read(self.objective.bare), rng.capture()

    def _take(
        self,
        contents: Mapping[str, Any],
        rows: Any,
        random: Mapping[str, Any] | None,
        apply: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Takes over a checkpoint's contents; ``apply`` loads model and optimizer."""
        apply(contents)
        progress = contents["progress"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(progress["scheduler"])
        if progress["scaler"]:
            self._scaler.load_state_dict(progress["scaler"])
        self.updates, self._epoch, self._seen = (progress[n] for n in ("updates", "epoch", "seen"))
        self.epoch = self._epoch
        self.position, self._history = dict(progress["position"]), list(progress["history"])
        self._losses = Losses()
        self._losses.last, total, count = progress["loss"]
        self._losses.begin(total, count)
        if random is not None:
            rng.restore(random)
        states.write(self.objective.bare, rows)  # last: it may have to allocate a state

    def _apply(self, contents: Mapping[str, Any]) -> None:
        self.objective.bare.load_state_dict(contents["model"])
        self.optimizer.load_state_dict(contents["optimizer"])
