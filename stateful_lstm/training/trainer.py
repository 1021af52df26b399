"""``Trainer``: truncated back-propagation through time, one update per window."""

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
    """Trains a model on windows whose rows continue each other; evaluates, saves and loads it.

    An update runs the model over one window from the state that the last window left, and
    back-propagates to the window's beginning. On CUDA an update only enqueues its work, copies
    included; a method that returns a number waits for the device.

    Args:
        model: a StatefulLSTM, or any module with StatefulLSTMs inside; or either wrapped by
            ``DistributedDataParallel`` or ``fully_shard``, with a state for each rank's rows. The
            Trainer calls it with ``window.input`` and, if its ``forward`` takes arguments of these
            names, ``reset_mask`` and ``lengths``. If it returns a tuple, the first item counts.
        optimizer: of the model's parameters.
        loss_fn: a function of outputs (N, ...) and targets (N, ...), over the N steps that have a
            target; it returns their mean. Examples: ``nn.MSELoss()``, ``nn.CrossEntropyLoss()``.
        clip_grad_norm: the largest norm of the gradient; None: no clipping.
        scheduler: any scheduler of ``torch.optim.lr_scheduler``.
        schedule: "update" or "epoch": the scheduler steps after every update, or after every epoch
            of :meth:`fit`. ``ReduceLROnPlateau`` gets the epoch's mean loss as its metric.
        autocast: the dtype of forward, torch.bfloat16 or torch.float16; None: the model's dtype.
            float16 needs CUDA, and scales the gradients: every update then waits for the device,
            because torch checks whether they are finite.
        forward: a function of (model, window) that replaces the model's call. It returns outputs
            (T, B, ...), or (B, T, ...) for windows with the batch first.

    With many ranks, a window's loss is weighted by its share of the targets, so that the parameters
    are those of one process with the joined batch; ``current_loss`` is the joined batch's too.
    Delete trainer and model before ``destroy_process_group()``: with gloo, torch may wait forever
    otherwise.

    Warns:
        UserWarning: the model has no StatefulLSTM: no state is carried from window to window.

    Raises:
        TypeError: an argument has another type.
        ValueError: arguments do not fit together: the optimizer belongs to another model, say.

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
            raise ValueError("ReduceLROnPlateau needs an epoch's loss: pass schedule='epoch'")
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
        """Makes one update of the parameters from one window.

        On CUDA it returns while the device works, with a few updates in flight; a window in
        page-locked memory is copied during the work for earlier windows.

        A window without targets (on any rank) advances the resident state, and nothing else. With
        many ranks on CUDA the number of targets would need a wait for the device, so there the
        optimizer makes a step with zero gradients.

        Args:
            window: the window whose rows continue the last update's rows.

        Raises:
            FloatingPointError: the loss is not finite; the text names the update. On the CPU only
                the resident state has changed. On CUDA the text may name an earlier update, after
                which the parameters have been updated.
            TypeError: the argument is not a window, or its masks or lengths have another dtype.
            ValueError: the window does not fit the model; for example, it is time-major and a layer
                has ``batch_first``, or the reverse. If only the model's output shows the mismatch,
                or if loss_fn fails, the resident state has advanced.
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
        """The loss of the last update; waits until the update is done.

        Returns:
            The mean over the window's targets.

        Raises:
            RuntimeError: there was no update, or no update had a target.
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
        """Makes an update from every window, epoch after epoch.

        After :meth:`load` of a checkpoint that was saved during a fit, the same call continues that
        fit in the middle of its epoch and of its sequences, with the same results.

        Args:
            windows: a :class:`stateful_lstm.data.ContinuousBatches`, a ``DataLoader`` of one, or
                any iterable of windows that can be iterated more than once. After :meth:`load` it
                must give the windows of the interrupted epoch again, in the same order; a
                ``DataLoader`` that shuffles with torch's generators does.
            epochs: number of epochs; ``trainer.epoch`` is the number of finished epochs.
            progress: whether to show a bar with loss, steps per second and time left. Without
                tqdm there is no bar.
            callback: a function of this trainer, called after every update. It returns None, or
                "stop" to end training. After a stop or an exception, the next fit begins at the
                beginning of an epoch. With many ranks, all must return the same.

        Returns:
            The mean loss of each epoch, over all its targets. For an epoch that the callback
            stopped: over the targets of its updates.

        Raises:
            FloatingPointError: as in :meth:`update`.
            TypeError: an argument has another type, or the callback returns another value.
            ValueError: an epoch has no windows or no targets, or ``epochs`` is below 0.
            RuntimeError: after :meth:`load`, the last window that was seen is not the same as
                before, or the checkpoint has a position and the windows have none. If these windows
                are refused, by this error or by the data, the trainer stays as it was loaded.

        Warns:
            UserWarning: after :meth:`load`, ``epochs`` is not above the number of finished epochs.
        """
        arguments.check_windows(windows)
        epochs = arguments.check_epochs(epochs)
        arguments.check_fit(progress, callback)
        self._source = source = Source(windows)
        self.epoch = self._epoch
        if self._loaded is None:
            self.position = {}  # an earlier fit may have had other data
        if self._loaded is not None and self._seen and self._epoch >= epochs:
            warnings.warn(
                f"nothing to train: the loaded fit has finished {self._epoch} epochs, and "
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
        finally:  # this fit is over, with or without an error
            self._source = None
            history = list(self._history)
            # A loaded checkpoint stays if its windows were refused, or if no epoch was left.
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
        """Trains one epoch, or the rest of it; returns whether the callback stopped it."""
        loaded = self._loaded
        if loaded is None:
            windows = source.begin({})
        else:
            try:
                windows = source.begin(loaded.position, self._seen, loaded.beginning, loaded.last)
            except ValueError:
                if self._seen:
                    raise
                windows = source.begin({})  # the saved fit was over: other data is fine
            self._loaded = None
            if loaded.random is not None:  # begin() may have drawn random numbers
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

        It has no side effects: parameters, resident states, modes, random generators and the data's
        position stay the same.

        Args:
            windows: as in :meth:`fit`. A whole epoch is evaluated, at any position of the data.

        Returns:
            The mean over all targets of all windows and all ranks.

        Raises:
            TypeError: the argument does not hold windows.
            ValueError: there is no target, or a window does not fit the model, as in
                :meth:`update`.
            RuntimeError: the call is inside a fit, and ``windows`` is the fit's own ``DataLoader``
                with persistent workers: they would leave the fit's epoch.
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
        """Writes all that training needs to continue: a file, or with many ranks a folder.

        If ``path`` is a checkpoint's folder already, one process writes a folder too.

        A checkpoint holds parameters, optimizer, scheduler, resident states, the data's position
        and the random generators. A save writes a new file and renames it: at any moment ``path``
        is the old checkpoint or the new one. With many ranks, all ranks call it.

        Args:
            path: of the file or folder, visible to all ranks.

        Raises:
            TypeError: the contents could not be loaded without executing code.
            OSError: as for files; ``FileExistsError`` for a folder that is no checkpoint.
        """
        self._save(Path(path))

    def load(self, path: str | PathLike[str]) -> None:
        """Continues from the call of :meth:`save`, bit for bit.

        :meth:`fit` restores the data's position; in your own loop over ``update``, pass
        ``position`` to the data's ``load_state_dict``. Loading executes no code.

        Another number of ranks, or one process, may load the checkpoint. Parameters and optimizer
        are the same then. The ranks divide the rows of the states among them, in order: with the
        same total number of rows, each row continues its sequence. On a rank that the saving run
        did not have, the random generators do not change.

        Args:
            path: the argument of :meth:`save`.

        Raises:
            CheckpointError: the file is no checkpoint, is damaged, or belongs to another model,
                optimizer or scheduler. Nothing changes then.
            FileNotFoundError: there is no checkpoint.
        """
        self._load(Path(path))
