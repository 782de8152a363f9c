"""A run that was stopped, however it was stopped, goes on as if nothing had happened."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from lit_bert.console import status
from lit_bert.errors import Interrupted
from lit_bert.run import loop
from lit_bert.run.exit import exit_on_sigterm

SAME_SIGNAL_SECONDS = 1.0
"""A second signal within this time is the first, passed on: a scheduler sends it to a launcher and its processes."""


class PreemptionCheckpoint(Checkpoint):  # Lightning moves checkpoints behind all other callbacks
    """Keeps `last.ckpt`: written at each epoch's end, every few minutes within, and before a signal ends the run.

    It is written between optimizer steps only, so that no accumulated gradient is lost, and after the loggers have what
    was logged, so that a resumed run lacks no point.

    SIGINT, SIGTERM, SIGHUP (a terminal was closed) and, in a SLURM job, SIGUSR1 end the run after the step, on all
    ranks, whichever received it; another signal, a second later or more, ends it at once. After SIGUSR1 the job is put
    back into the queue.

    Args:
        path: The file; by default `checkpoints/last.ckpt` in the Trainer's root folder.
        minutes: Time between two checkpoints within an epoch.
    """

    def __init__(self, path: str | Path | None = None, minutes: float = 5.0) -> None:
        self.path = Path(path or "")
        self.minutes = minutes
        self._received_signal = 0
        self._received_at = self._saved_at = 0.0
        self._global_step = self._saved_step = 0
        self._validated = False  # whether a validation has followed the last batch
        self._stopped = False
        self._rng_states: list[dict[str, torch.Tensor]] = []
        self._handlers: dict[int, Any] = {}
        self._group: distributed.ProcessGroup | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the `rng_states` of all ranks, and whether training `stopped` early."""
        own = {"cpu": torch.get_rng_state()}
        own |= {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
        states = [own]
        if distributed.is_available() and distributed.is_initialized():
            states *= distributed.get_world_size()
            distributed.all_gather_object(states, own)
        return {"rng_states": states, "stopped": self._stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rng_states, self._stopped = state_dict["rng_states"], state_dict.get("stopped", False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.path.name:
            self.path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Do not count an epoch or a batch that is about to begin as begun: Lightning would skip an epoch's rows."""
        fit = checkpoint["loops"]["fit_loop"]
        batches = fit["epoch_loop.batch_progress"]["current"]
        if self._validated and batches["ready"] > batches["started"]:
            fit["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # on resuming, Lightning counts this step again
        for progress in (fit["epoch_progress"], fit["epoch_loop.batch_progress"]):
            for counts in (progress["total"], progress["current"]):
                counts["ready"] = counts["started"]
        checkpoint["epoch"] = max(0, fit["epoch_progress"]["current"]["started"] - 1)  # ModelCheckpoint counts so

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore random states, stay stopped if training had stopped early, and listen to signals."""
        if self._stopped and trainer.early_stopping_callbacks:
            status("stop", "early stopping has ended this run; without that callback, or with a new run, it trains on")
            trainer.should_stop = True
        self._received_signal = 0
        if len(self._rng_states) == trainer.world_size:
            state = self._rng_states[trainer.global_rank]
            torch.set_rng_state(state["cpu"])
            if "cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"])
        self._rng_states = []
        loop.correct_restart(trainer)
        self._saved_at, self._global_step, self._saved_step = time.monotonic(), trainer.global_step, trainer.global_step
        trainer.ckpt_path = None  # otherwise ModelCheckpoint never deletes the file that the run was resumed from
        if trainer.is_global_zero:
            for partial in self.path.parent.glob(".*.partial"):  # left by a process that was killed
                partial.unlink()
        # Lightning asks rank 0 alone, before each batch, whether it received SIGTERM, and waits for the GPU to know
        # (Lightning-AI/pytorch-lightning#21487). Our handler leaves its own without a signal to tell of.
        epoch_loop: Any = trainer.fit_loop.epoch_loop
        assert hasattr(epoch_loop, "_broadcast_sigterm_tensor"), "Lightning renamed what it broadcasts SIGTERM with"
        epoch_loop._broadcast_sigterm_tensor = lambda: None
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is not threading.main_thread():
            return  # Python sets handlers in the main thread only
        names = ["SIGINT", "SIGTERM", "SIGHUP", *(["SIGUSR1"] if "SLURM_JOB_ID" in os.environ else [])]
        for number in (signal.Signals[name] for name in names if name in signal.Signals.__members__):
            if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                self._handlers[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if not self._received_signal:
            self._received_signal, self._received_at = number, time.monotonic()
        elif time.monotonic() - self._received_at > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop after the epoch before, whose metrics have reached the loggers by now."""
        if trainer.global_step != self._saved_step:
            self._save(trainer)
        number, _ = self._sync_flags(trainer)
        self._stop(trainer, number)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Save and stop, if it is time and an optimizer step is done, whose values have reached the loggers by now."""
        stepped, self._global_step = trainer.global_step != self._global_step, trainer.global_step
        if stepped and batch_idx:
            number, due = self._sync_flags(trainer)
            if number or due:
                self._save(trainer)
                self._stop(trainer, number)
        self._validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save at the last step of a run that ends within an epoch, which Lightning counts as ended afterwards."""
        ends = loop.stops_early(trainer) or trainer.global_step == trainer.max_steps
        if ends and trainer.global_step != self._global_step and not loop.is_last_batch(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            exit_on_sigterm(trainer)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if this validation stops training within an epoch."""
        self._validated = True
        if trainer.state.fn == "fit" and loop.stops_early(trainer) and not loop.is_last_batch(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the last epoch, leave signals to others, and stop if one came late."""
        if loop.is_last_batch(trainer) and trainer.global_step != self._saved_step:
            self._save(trainer)
        number, _ = self._sync_flags(trainer)
        self._restore_handlers(trainer)
        self._stop(trainer, number)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers(trainer)

    def _restore_handlers(self, trainer: Trainer) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._handlers:
            exit_on_sigterm(trainer)
        self._handlers = {}

    def _sync_flags(self, trainer: Trainer) -> list[int]:
        """Return the signal that any rank received, and whether it is time to save; all ranks return the same."""
        due = time.monotonic() - self._saved_at > self.minutes * 60
        flags = torch.tensor([self._received_signal, int(due)])
        if trainer.world_size > 1:
            distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=self._group)
        return cast(list[int], flags.tolist())

    def _save(self, trainer: Trainer) -> None:
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self._stopped = loop.stops_early(trainer)
        for logger in trainer.loggers:
            logger.save()  # what was logged is on the disk before the checkpoint that says so
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)

    def _stop(self, trainer: Trainer, number: int) -> None:
        if not number:
            return
        if signal.Signals(number).name == "SIGUSR1" and trainer.is_global_zero:
            array = os.environ.get("SLURM_ARRAY_JOB_ID")
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
            try:
                subprocess.run(["scontrol", "requeue", job], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                status("queue", f"job {job} could not be put back into it ({error}); submit it again")
        raise Interrupted(number, self.path)
