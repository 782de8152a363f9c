"""What lets a run that was stopped, however it was stopped, go on as if nothing had happened."""

import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from lit_bert.errors import UserError

CHECK_STEPS = 10
"""Optimizer steps between two looks at whether losses are finite: to look waits for a GPU."""

STOP, NOT_FINITE, DUE = range(3)


class Interrupted(Exception):
    """Training stopped at a signal, after a checkpoint was written.

    Args:
        signal_number: The signal.
        checkpoint: What to go on from.
    """

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(f"{signal.Signals(signal_number).name}: {checkpoint}")
        self.signal_number = signal_number
        self.checkpoint = checkpoint


class Resumable(Checkpoint):
    """Keeps `last.ckpt`: written at each epoch's end, every few minutes within, and before a signal ends the run.

    A checkpoint holds the random states of all ranks. It is written between optimizer steps only, so that no
    accumulated gradient is lost, and never after a loss or gradient that is not a finite number.

    SIGINT, SIGTERM and, in a SLURM job, SIGUSR1 end the run after the step, on all ranks, whichever received it; a
    second one ends it at once. After SIGUSR1 the job is put back into SLURM's queue.

    Args:
        path: The file.
        every: Time between two checkpoints within an epoch.
    """

    def __init__(self, path: Path, every: timedelta = timedelta(minutes=5)) -> None:
        self.path = path
        self.every = every
        self._asked = self._stopping = 0  # signals: received here, and agreed upon by all ranks
        self._saved_at = 0.0
        self._random: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._group: Any = None

    # --- state of a checkpoint ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the `random` states of all ranks."""
        mine = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            mine["cuda"] = torch.cuda.get_rng_state()
        states = [mine]
        if distributed.is_available() and distributed.is_initialized():
            states *= distributed.get_world_size()
            distributed.all_gather_object(states, mine)
        return {"random": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random states until training starts."""
        self._random = state_dict["random"]

    # --- hooks --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let SIGTERM end this process before and after training, too, and with it those that it started."""

        # Lightning's own handler starts a collective, at whatever moment, on this rank alone
        # (Lightning-AI/pytorch-lightning#20806, #21487).
        def end(number: int, frame: Any) -> NoReturn:
            if (launcher := trainer.strategy.launcher) is not None:
                launcher.kill(number)
            raise SystemExit(128 + number)

        cast(Any, trainer)._signal_connector._sigterm_notifier_fn = end

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore random states, and listen to signals."""
        if len(self._random) == trainer.world_size:
            state = self._random[trainer.global_rank]
            torch.set_rng_state(state["cpu"])
            if "cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"])
        self._saved_at = time.monotonic()
        trainer.ckpt_path = None  # or Lightning would keep that file for ever, though it be no longer the best
        if trainer.is_global_zero:
            for partial in self.path.parent.glob(".*.partial"):  # left by a process that was killed
                partial.unlink()
        # Lightning would ask rank 0 alone, before each batch, whether it was told to end, and wait for a GPU.
        cast(Any, trainer.fit_loop.epoch_loop)._broadcast_sigterm_tensor = lambda: None
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])):
            self._handlers[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = number

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put what was logged on the disk, and stop if the epoch before was to be the last."""
        for logger in trainer.loggers:
            logger.save()
        self._stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, if it is time and an optimizer step is done; an epoch's last is left for its end.

        Neither before a validation: Lightning would leave it out when the run goes on.
        """
        loop = cast(Any, trainer.fit_loop.epoch_loop)
        if loop._should_accumulate() or loop._num_ready_batches_reached():
            return
        stops = trainer.should_stop and cast(Any, trainer.fit_loop)._can_stop_early
        last = stops or trainer.global_step == trainer.max_steps  # within an epoch
        if loop._should_check_val_fx(trainer.fit_loop._data_fetcher) and not last:
            return
        found = self._agreed(trainer, pl_module)
        if found[STOP] or found[DUE] or last:
            self._save(trainer, pl_module)
            self._stopping = found[STOP]
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to judge, or to save as the best, a model whose loss is not finite."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agreed(trainer, pl_module, certain=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if the epoch is whole; what it has to log follows this hook, and only then may training stop."""
        if cast(Any, trainer.fit_loop.epoch_loop)._num_ready_batches_reached():
            self._save(trainer, pl_module)
        self._stopping = self._agreed(trainer, pl_module)[STOP]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave signals to others, and stop if one came late."""
        self._deaf()
        self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave signals to others."""
        self._deaf()

    def _deaf(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    # --- what they do -------------------------------------------------------------------------------------------------

    def _agreed(self, trainer: Trainer, pl_module: Any, certain: bool = False) -> list[int]:
        """Return what any rank was asked or saw: signal, loss not finite, time to save; all ranks return the same.

        Raises:
            UserError: Some loss or gradient was not finite.
        """
        found = torch.zeros(3, dtype=torch.int64)
        found[STOP] = self._asked
        if certain or trainer.global_step % CHECK_STEPS == 0:
            found[NOT_FINITE] = not bool(pl_module.finite)
        found[DUE] = time.monotonic() - self._saved_at > self.every.total_seconds()
        if trainer.world_size > 1:
            distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self._group)
        if found[NOT_FINITE]:
            self._refuse(trainer)
        return cast(list[int], found.tolist())

    def _save(self, trainer: Trainer, pl_module: Any) -> None:
        self._agreed(trainer, pl_module, certain=True)
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _refuse(self, trainer: Trainer) -> NoReturn:
        kept = f"; {self.path} is of before" if self.path.is_file() else ""
        raise UserError(
            f"the loss or its gradient is not a finite number, at step {trainer.global_step} or up to "
            f"{CHECK_STEPS} steps before; lower --model.learning_rate, or raise "
            f"--model.warmup_ratio or the precision (--trainer.precision {trainer.precision} now){kept}"
        )

    def _stop(self, trainer: Trainer) -> None:
        if not self._stopping:
            return
        if self._stopping == getattr(signal, "SIGUSR1", None) and trainer.is_global_zero:
            array = os.environ.get("SLURM_ARRAY_JOB_ID")
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
            try:
                subprocess.run(["scontrol", "requeue", job], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                trainer.print(f"queue    job {job} could not be put back into it ({error}); submit it again")
        raise Interrupted(self._stopping, self.path)
