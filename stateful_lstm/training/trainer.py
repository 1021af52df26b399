"""``Trainer``: truncated back-propagation over windows, window after window."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import Window
from . import arguments, rng, states
from .objective import Objective
from .progress import progress_bar
from .resumable import Resumable
from .window_source import Source

Callback: TypeAlias = "Callable[[Trainer], str | None]"


class Trainer(Resumable):
    """Trains a model on windows that go on row by row, and evaluates, saves and loads it.

    An update runs the model over one window from the state that the last one left, and
    back-propagates to the window's beginning. On CUDA it only enqueues its work, copies included;
    what asks for a number waits for it.

    Args:
        model: anything with StatefulLSTMs inside; a StatefulLSTM by itself; or either wrapped by
            ``DistributedDataParallel`` or ``fully_shard``, with a state for each rank's rows. It is
            called with ``window.input`` and, as far as its ``forward`` takes arguments of these
            names, ``reset_mask`` and ``lengths``. Of a tuple that it returns the first is taken.
        optimizer: of its parameters.
        loss_fn: of outputs (N, ...) and targets (N, ...), all steps that have a target, one after
            the other; returns their mean. ``nn.MSELoss()`` and ``nn.CrossEntropyLoss()`` do.
        clip_grad_norm: longest gradient; None: as it comes.
        scheduler: any of ``torch.optim.lr_scheduler``.
        schedule: when the scheduler steps, at every "update" or "epoch" of :meth:`fit`. One that
            wants a metric (``ReduceLROnPlateau``) gets the epoch's mean loss.
        autocast: dtype that forward computes in, torch.bfloat16 or torch.float16 (on CUDA, with its
            gradients scaled: torch asks the device in every update whether they are finite, and
            waits); None: as it is.
        forward: in place of the model's call: a function of (model, window) that returns outputs
            (T, B, ...), or (B, T, ...) for windows with the batch first.

    Many ranks: a window's loss counts by its share of the targets, so that the parameters are those
    of one process with the joined batch; ``current_loss`` is the joined batch's too. Let trainer
    and model go before ``destroy_process_group()``: with gloo, torch may wait for ever otherwise.

    Warns:
        UserWarning: the model has no StatefulLSTM: no state is carried from window to window.

    Raises:
        TypeError: for arguments of another kind.
        ValueError: for arguments that do not fit together, as an optimizer of another model.

    Example:
        >>> trainer = Trainer(model, torch.optim.Adam(model.parameters()), nn.MSELoss())
        >>> for window in windows:
        ...     trainer.update(window)
        >>> loss = trainer.current_loss()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        *,
        clip_grad_norm: float | None = None,
        scheduler: Any = None,
        schedule: str = "update",
        autocast: torch.dtype | None = None,
        forward: Callable[[nn.Module, Window], Tensor] | None = None,
    ) -> None:
        arguments.check_parts(model, optimizer, loss_fn, scheduler, forward)
        if clip_grad_norm is not None:
            arguments.check_norm(clip_grad_norm)
        if schedule not in ("update", "epoch"):
            raise ValueError(f"schedule must be 'update' or 'epoch', got {schedule!r}")
        plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        if plateau and schedule == "update":
            raise ValueError("ReduceLROnPlateau wants an epoch's loss: say schedule='epoch'")
        objective = Objective(model, loss_fn, autocast, forward)
        arguments.check_belonging(model, optimizer, scheduler)
        arguments.warn_without_states(model)
        super().__init__(model, optimizer, objective, scheduler)
        self.clip_grad_norm, self.schedule = clip_grad_norm, schedule

    def __repr__(self) -> str:
        model, optimizer = arguments.kind(self.model), type(self.optimizer).__name__
        return (
            f"Trainer(model={model}, optimizer={optimizer}, updates={self.updates}, "
            f"epoch={self.epoch})"
        )

    # ------------------------------------------------------------ one update

    def update(self, window: Window) -> None:
        """One update of the parameters from one window.

        On CUDA it returns while the device works, with some updates under way at most; a window in
        page-locked memory is copied while earlier ones are worked on.

        A window without targets (of any rank) moves the resident state on, and nothing else; with
        many ranks on CUDA, whose number of targets nobody waits for, the optimizer makes a step
        with gradients of zero.

        Args:
            window: the one that follows the last update's, row by row.

        Raises:
            FloatingPointError: the loss is not finite. It names the update. On the CPU nothing but
                the resident state has changed then; on CUDA the loss of an earlier update may be
                meant, after which the parameters have been updated.
            TypeError: for anything but a window, or masks and lengths of another dtype.
            ValueError: the window does not fit the model; among them one with the time first for
                a layer with ``batch_first``, or the reverse. Where only the model's output says so,
                or loss_fn fails, the resident state has moved on.
        """
        staged = self.objective.stage(window)
        self.model.train()
        self.optimizer.zero_grad()
        number = self.updates + 1
        with self.objective.autocasting():
            loss = self.objective.loss(staged)
        weight, reported = self.objective.share(loss, staged.targets)
        if not loss.is_cuda:
            self._losses.add(number, reported)  # raises before anything is updated
        if weight is not None:
            loss = loss * weight
        self._scaler.scale(loss).backward()
        if not self.objective.is_blank(staged, reported):
            if self.clip_grad_norm is not None:
                self._scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            if self.scheduler is not None and self.schedule == "update":
                self.scheduler.step()
        self.updates = number
        self.position = window.position
        self._loaded = None
        if loss.is_cuda:
            self._losses.add(number, reported)

    def current_loss(self) -> float:
        """The loss of the last update, as soon as it is done.

        Returns:
            The mean over the window's targets.

        Raises:
            RuntimeError: before the first update, or if none has had a target.
            FloatingPointError: as in :meth:`update`.
        """
        self._losses.wait()
        if self._losses.last is None:
            raise RuntimeError("there is no loss yet: call update first, with targets")
        return self._losses.last

    # ------------------------------------------------------------ many updates

    def fit(
        self,
        windows: Iterable[Window],
        epochs: int = 1,
        progress: bool = True,
        callback: Callback | None = None,
    ) -> list[float]:
        """Updates from every window, epoch after epoch.

        After :meth:`load` of a checkpoint that was saved during a fit, the same call goes on where
        that one was, in the middle of an epoch and of its sequences, and ends where it would have.

        Args:
            windows: a :class:`stateful_lstm.data.ContinuousBatches`, a ``DataLoader`` of one, or
                any iterable of windows that can be run through more than once. After
                :meth:`load` it must give the windows of the epoch that was broken off once more,
                in the same order; a ``DataLoader`` that shuffles by torch's generators does.
            epochs: how many; ``trainer.epoch`` says how many of them are finished.
            progress: whether to show a bar with loss, steps per second and time left. Without
                tqdm there is none.
            callback: is called with this trainer after every update, and returns None, or "stop"
                to end training. After that, or an exception, the next fit begins at the beginning
                of an epoch. With many ranks all of them must return the same.

        Returns:
            The mean loss of each epoch, over all its targets; of the last one, if it was stopped,
            over those that it got to.

        Raises:
            FloatingPointError: as in :meth:`update`.
            TypeError: for arguments of another kind, and a callback that returns anything else.
            ValueError: an epoch has no windows, or no targets; ``epochs`` below 0.
            RuntimeError: after :meth:`load` the last window that was seen comes out another one,
                or the windows have no position and the checkpoint has one. Windows that are
                refused after a load, by this error or by the data, leave the trainer as it was
                loaded.

        Warns:
            UserWarning: after :meth:`load`, ``epochs`` are not more than were finished before.
        """
        arguments.check_windows(windows)
        epochs = arguments.check_epochs(epochs)
        arguments.check_fit(progress, callback)
        self._source = source = Source(windows)
        self.epoch = self._epoch
        if self._loaded is None:
            self.position = {}  # whatever other data has been trained on
        if self._loaded is not None and self._seen and self._epoch >= epochs:
            warnings.warn(
                f"nothing to train: the fit that was loaded had finished {self._epoch} epochs, and "
                f"epochs={epochs}",
                UserWarning,
                stacklevel=2,
            )
        whole = False
        try:
            while self._epoch < epochs:
                stopped = self._fit_epoch(source, epochs, progress, callback)
                self._losses.wait()
                if self._losses.count == 0 and not stopped:
                    lacking = "targets" if self._seen else "windows: there is nothing to train on"
                    raise ValueError(f"the epoch has no {lacking}")
                self._history.append(self._losses.mean)
                if stopped:
                    break
                if self.scheduler is not None and self.schedule == "epoch":
                    self._step_scheduler(self._losses.mean)
                source.finish()
                self.position = source.position()
                self._epoch += 1
                self.epoch = self._epoch
                self._begin_epoch()
            else:
                whole = True
        finally:  # this fit is over, however it ended
            self._source = None
            history = list(self._history)
            # A checkpoint whose windows were refused, or of which no epoch was wanted, still waits.
            if self._loaded is None or source.begun or not self._seen:
                self._history, self._epoch = [], 0
                if not whole:
                    if source.begun:
                        self.position = source.rewind(self.position)
                    self._begin_epoch()
        return history

    def _begin_epoch(self) -> None:
        self._seen, self._last = 0, None
        self._losses.begin()

    def _fit_epoch(
        self, source: Source, epochs: int, progress: bool, callback: Callback | None
    ) -> bool:
        """One epoch, or what is left of it; whether the callback ended it."""
        loaded = self._loaded
        if loaded is None:
            windows = source.begin({})
        else:
            try:
                windows = source.begin(loaded.position, self._seen, loaded.beginning, loaded.last)
            except ValueError:
                if self._seen:
                    raise
                windows = source.begin({})  # the fit that was saved was over: other data will do
            self._loaded = None
            if loaded.random is not None:  # what has just begun may have drawn numbers
                rng.restore(loaded.random)
        text = f"epoch {self._epoch + 1}/{epochs}"
        with progress_bar(progress, text, lambda: len(source)) as show:
            for window in windows:
                self.update(window)
                self._seen, self._last = self._seen + 1, window
                if not self.position:
                    self.position = source.position()
                show(self._seen, window.reset_mask.numel(), self._losses.last)
                if callback is not None and arguments.check_answer(callback(self)):
                    return True
        return False

    def _step_scheduler(self, loss: float) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(loss)
        else:
            self.scheduler.step()

    @torch.no_grad()
    def evaluate(self, windows: Iterable[Window]) -> float:
        """The mean loss, in eval mode, from zero states.

        Leaves no trace: parameters, resident states, modes, random generators and the position of
        the data are afterwards what they were.

        Args:
            windows: as in :meth:`fit`. All of an epoch is taken, wherever the data stands.

        Returns:
            The mean over all targets of all windows, and of all ranks.

        Raises:
            TypeError: for anything but windows.
            ValueError: there is no target at all; a window does not fit, as in :meth:`update`.
            RuntimeError: inside a fit, for its own ``DataLoader`` with persistent workers: they
                would leave the fit's epoch.
        """
        arguments.check_windows(windows)
        source = Source(windows)
        fitted = None if self._source is None else self._source.windows
        if windows is fitted and isinstance(windows, DataLoader) and windows.persistent_workers:
            raise RuntimeError(
                "the fit's own DataLoader has persistent workers, which are busy: evaluate on "
                "another DataLoader, or on its dataset"
            )
        modes = {module: module.training for module in self.model.modules()}
        total = torch.zeros(2, dtype=torch.float64, device=self.objective.device)
        try:
            with states.preserve(self.model), rng.preserve(), self.objective.autocasting():
                self.model.eval()
                states.reset(self.model)
                with source.aside() as epoch:
                    for window in epoch:
                        staged = self.objective.stage(window)
                        total[0] += self.objective.loss(staged) * staged.targets
                        total[1] += staged.targets
        finally:
            for module, training in modes.items():
                module.training = training
        if self.objective.group is not None:
            dist.all_reduce(total, group=self.objective.group)
        loss_sum, count = total.tolist()
        if count == 0:
            raise ValueError("the windows have no targets")
        return float(loss_sum / count)

    # ------------------------------------------------------------ checkpoints

    def save(self, path: str | PathLike[str]) -> None:
        """Writes all that training needs to go on: a file, or with many ranks a folder.

        One process goes on writing a folder where there is one.

        Parameters, optimizer, scheduler, resident states, the data's position, random generators.
        It is written aside and renamed: at any moment ``path`` is an old checkpoint or a new one.
        With many ranks all of them call it.

        Args:
            path: of the file or folder; one that all ranks see.

        Raises:
            TypeError: for contents that could not be loaded without executing code.
            OSError: as files do; ``FileExistsError`` for a folder that is no checkpoint.
        """
        self._save(Path(path))

    def load(self, path: str | PathLike[str]) -> None:
        """Goes on where :meth:`save` was called, bit for bit.

        :meth:`fit` takes up the data's position by itself; in a loop of your own over ``update``,
        give ``position`` to the data's ``load_state_dict``. Loading executes no code.

        What one number of ranks has saved another may load, one process as well. Parameters and
        optimizer are the same then. The rows of the states are shared out anew, in their order:
        with as many rows in all as before, each goes on with its own sequence. The random
        generators of ranks that there were not are left as they are.

        Args:
            path: what :meth:`save` was given.

        Raises:
            CheckpointError: for a file that is no checkpoint, is damaged, or belongs to another
                model, optimizer or scheduler. Nothing is changed then.
            FileNotFoundError: there is none.
        """
        self._load(Path(path))
