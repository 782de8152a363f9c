"""How fast is it? Training, evaluation and prediction beside the Hugging Face Trainer and pipeline, and the machine.

Each contestant runs in a process of its own, one after the other, for some rounds, so that whatever else slows the
machine slows all of them alike; a ratio is the median of the rounds' ratios.

    reference   transformers.Trainer with its defaults: batch 8, every sentence padded to 512 tokens
    tuned       transformers.Trainer as an expert sets it: batch 32, dynamic padding, length grouping, bfloat16;
                prediction with pipeline("text-classification"), in as large batches
    ours        lit_bert, batch 32
    eager       the same without CUDA graphs, on a GPU
    bare        the same without what makes a run resumable: random states, signals, checks of the loss; of both, the
                checkpoint at the end is timed apart
    machine     products of large matrices

Two more parts of a report: the same training beside `--busy` other processes that each keep a core at work; and what
people wait for, the seconds from the start of the process until the accuracy on all packaged validation rows, looked at
four times an epoch, is `--until`, once for each of three seeds.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONTESTANTS = ("machine", "ours", "eager", "bare", "tuned", "reference")
WARM_UP = 5  # steps that are not counted; on a GPU, whose kernels are chosen by the shape of a batch, an epoch is not
TRAINING_ROWS = 8485  # of the packaged data
SEEDS = (1, 2, 3)  # of the runs until an accuracy is reached
REPORTED = ("padding_waste", "seconds_to_first_step", "checkpoint_seconds", "peak_memory_mib")
EPOCHS, RECIPE = 3, {"learning_rate": 1.5e-4, "warmup_ratio": 0.1, "weight_decay": 0.01}  # of packaged_full.yaml
TUNED = {"train_sampling_strategy": "group_by_length", "bf16": True, "per_device_eval_batch_size": 64}


def main() -> None:
    """Run the rounds and report, or run one contestant and print its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="packaged", help="encoder: packaged, a folder, or a Hub model id")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant runs (default: 5)")
    parser.add_argument("--steps", type=int, default=60, help="training steps timed per round (default: 60)")
    parser.add_argument("--batch", type=int, default=32, help="rows per batch of ours and tuned (default: 32)")
    parser.add_argument("--busy", type=int, default=1, help="processes beside ours and tuned, then (default: 1)")
    parser.add_argument("--until", type=float, default=0.8, help="validation accuracy to be reached (default: 0.8)")
    parser.add_argument("--seed", type=int, help="with --contestant: train until the accuracy is reached")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="report (default: runs/bench.json)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help="run this one once and print its record")
    options = parser.parse_args()
    if options.contestant:
        started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + _process_start()
        name = options.contestant if options.seed is None else f"{options.contestant} until"
        print("\n" + json.dumps(RUN[name](options, started)))
        return
    records: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS if name != "eager" or _has_gpu()}
    for number in range(1, options.rounds + 1):
        for name in [name for name in CONTESTANTS if name in records]:
            _tell(f"round {number} of {options.rounds}: {name}")
            records[name].append(_in_a_process(name, options))
        for name in ("ours", "tuned") if options.busy else ():
            _tell(f"round {number} of {options.rounds}: {name}, on a busy machine")
            with _busy(options.busy):
                records.setdefault(f"{name}, busy", []).append(_in_a_process(name, options))
    for seed in SEEDS if options.until else ():
        for name in ("ours", "tuned"):
            _tell(f"until an accuracy of {options.until}, seed {seed}: {name}")
            records.setdefault(f"{name}, until", []).append(_in_a_process(name, options, seed))
    report(records, options)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _busy(number: int) -> Iterator[None]:
    """Keep as many cores at work."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _in_a_process(name: str, options: argparse.Namespace, seed: int | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, "--contestant", name, "--encoder", options.encoder]
    command += ["--steps", str(options.steps), "--batch", str(options.batch)]
    if seed is not None:
        command += ["--seed", str(seed), "--until", str(options.until)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _process_start() -> float:
    """Return when this process began, in seconds since the machine did."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _peak_memory_mib() -> float:
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _warm_up(rows: int, batch: int) -> int:
    """Return how many steps are not counted, of an epoch of so many rows."""
    return -(-rows // batch) if _has_gpu() else WARM_UP


def _settle() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- contestants ------------------------------------------------------------------------------------------------------


def machine(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Return the rate of matrix products, in GFLOP/s."""
    import torch

    from lit_bert.run.hardware import measure_matmul_gflops

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "bf16_gflops": measure_matmul_gflops(device, bf16=True),
        "fp32_gflops": measure_matmul_gflops(device, bf16=False),
    }


def ours(
    options: argparse.Namespace, started: float, resumable: bool = True, cuda_graphs: bool = True
) -> dict[str, float]:
    """Time this project, with the settings of its command line."""
    import torch
    from lightning.pytorch import Callback

    from lit_bert import BertClassifier, Predictor, TextClassificationDataModule
    from lit_bert.callbacks.cuda_graphs import CudaGraphs

    _prepare(seed=1)
    clock = StepClock(started)

    class Timed(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            clock.step(batch.get("attention_mask", torch.ones_like(batch["input_ids"])))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == trainer.max_steps:
                clock.end()  # before the checkpoint that ends a run

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            clock.saved = time.perf_counter() - clock.ended
            clock.peak_memory = _peak_memory_mib()

    callbacks: list[Callback] = [Timed(), CudaGraphs()] if cuda_graphs else [Timed()]
    model = BertClassifier(options.encoder, learning_rate=1e-4)
    padding: Any = None if cuda_graphs else "longest"
    data = TextClassificationDataModule("packaged", options.encoder, batch_size=options.batch, padding=padding)
    data.prepare_data()
    warm_up = _warm_up(TRAINING_ROWS, options.batch)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _our_trainer(folder, callbacks, resumable, max_steps=options.steps + warm_up, limit_val_batches=0)
        trainer.fit(model, data)
        texts = list(data.splits["test"]["text"])
        tasks = {"evaluate": lambda: trainer.test(model, data)}
        if resumable:
            predictor = Predictor(Path(folder) / "last.ckpt")
            tasks["predict"] = lambda: predictor(texts)
        rates = {}
        for task, run in tasks.items():
            run()  # warm
            begin = time.perf_counter()
            run()
            _settle()
            rates[task] = len(texts) / (time.perf_counter() - begin)
    parameters = sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name)
    return {**clock.record(warm_up), **rates, "parameters": parameters, "checkpoint_seconds": clock.saved}


def _prepare(seed: int) -> None:
    """Do what the command line does before it makes a Trainer."""
    from lightning.pytorch import seed_everything

    from lit_bert.console import silence_chatter
    from lit_bert.run import hardware, openmp

    silence_chatter()
    hardware.keep_freed_memory()
    openmp.limit_threads()
    openmp.LoadMonitor().__enter__()  # until the process ends
    seed_everything(seed, verbose=False)


def _our_trainer(folder: str, callbacks: list[Any], resumable: bool = True, **settings: Any) -> Any:
    """Return a Trainer as the command line makes it, without bars."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from lit_bert.callbacks.finite_guard import FiniteGuard
    from lit_bert.callbacks.preemption import PreemptionCheckpoint
    from lit_bert.callbacks.row_recorder import RowRecorder
    from lit_bert.callbacks.throughput import Throughput
    from lit_bert.run.checkpoint_io import AtomicCheckpointIO
    from lit_bert.run.hardware import has_fast_bf16

    callbacks = [RowRecorder(), Throughput(), *callbacks]
    if resumable:
        callbacks += [FiniteGuard(), PreemptionCheckpoint(Path(folder) / "last.ckpt")]
    return Trainer(
        precision="bf16-mixed" if has_fast_bf16("auto") else "32-true",
        gradient_clip_val=1.0,
        logger=TensorBoardLogger(folder),
        log_every_n_steps=10,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=resumable,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def ours_until(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Train this project on all rows until the accuracy on the validation rows is reached."""
    from lightning.pytorch import Callback

    from lit_bert import BertClassifier, TextClassificationDataModule
    from lit_bert.callbacks.cuda_graphs import CudaGraphs

    _prepare(options.seed)
    reached: dict[str, float] = {}

    class Stop(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            accuracy = float(trainer.callback_metrics["val/acc"])
            if accuracy >= options.until and not reached:
                reached.update(seconds=time.time() - started, accuracy=accuracy, steps=trainer.global_step)
                trainer.should_stop = True

    model = BertClassifier(options.encoder, **RECIPE)
    data = TextClassificationDataModule("packaged", options.encoder, batch_size=options.batch)
    data.prepare_data()
    with tempfile.TemporaryDirectory() as folder:
        _our_trainer(folder, [CudaGraphs(), Stop()], max_epochs=EPOCHS, val_check_interval=0.25).fit(model, data)
    return reached


def tuned_until(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Train the tuned Trainer with the same recipe until the same accuracy is reached."""
    from transformers import TrainerCallback

    reached: dict[str, float] = {}

    class Stop(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            if metrics["eval_accuracy"] >= options.until and not reached:
                seconds = time.time() - started
                reached.update(seconds=seconds, accuracy=metrics["eval_accuracy"], steps=state.global_step)
                control.should_training_stop = True

    settings = {
        "learning_rate": RECIPE["learning_rate"],
        "warmup_steps": RECIPE["warmup_ratio"],  # a fraction, below 1
        "weight_decay": RECIPE["weight_decay"],
        "num_train_epochs": EPOCHS,
        "max_steps": -1,
        "seed": options.seed,
        "eval_strategy": "steps",
        "eval_steps": 1 / (4 * EPOCHS),
    }
    _hugging_face(options, started, options.batch, WARM_UP, pad_to=None, callbacks=[Stop()], **TUNED, **settings)
    return reached


def eager(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Time this project without CUDA graphs."""
    return ours(options, started, cuda_graphs=False)


def bare(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Time this project without its callback for resuming."""
    return ours(options, started, resumable=False)


def reference(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Time the Trainer's defaults: a few steps of 8 sentences padded to 512 tokens, for they are slow."""
    few = argparse.Namespace(**{**vars(options), "steps": max(3, options.steps // 20)})
    clock, _, _ = _hugging_face(few, started, batch=8, warm_up=1, pad_to=512)
    return clock.record(warm_up=1)


def tuned(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Time the Trainer as an expert sets it, and the pipeline."""
    import torch
    from transformers import pipeline

    warm_up = _warm_up(TRAINING_ROWS, options.batch)
    clock, trainer, splits = _hugging_face(options, started, batch=options.batch, warm_up=warm_up, pad_to=None, **TUNED)
    rates = {}
    trainer.evaluate()
    begin = time.perf_counter()
    trainer.evaluate()
    rates["evaluate"] = len(splits["test"]) / (time.perf_counter() - begin)
    device = 0 if torch.cuda.is_available() else -1
    classify = pipeline(
        "text-classification",
        trainer.model,
        tokenizer=trainer.processing_class,
        device=device,
        batch_size=options.batch,
    )
    texts = list(splits["test"]["text"])
    classify(texts[: options.batch])
    begin = time.perf_counter()
    classify(texts)
    rates["predict"] = len(texts) / (time.perf_counter() - begin)
    return {**clock.record(warm_up), **rates}


def _accuracy(rows: Any) -> dict[str, float]:
    return {"accuracy": (rows.predictions.argmax(-1) == rows.label_ids).mean().item()}


def _hugging_face(
    options: argparse.Namespace,
    started: float,
    batch: int,
    warm_up: int,
    pad_to: int | None,
    callbacks: list[Any] | None = None,
    **settings: Any,
) -> tuple["StepClock", Any, Any]:
    import torch
    import transformers
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from lit_bert.data import dataset
    from lit_bert.modeling.encoder import find_encoder

    transformers.logging.set_verbosity_error()
    folder = find_encoder(options.encoder)
    splits = dataset.load(dataset.fetch("packaged")[0])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": pad_to} if pad_to else {}
    for name in ("train", "validation", "test"):
        rows = splits[name].map(lambda rows: tokenizer(rows["text"], truncation=True, **padding), batched=True)
        splits[f"{name} tokens"] = rows.rename_column("label", "labels")
    clock = StepClock(started)

    class Timed(Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            clock.step(inputs["attention_mask"])
            return super().training_step(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as output:
        common = {
            "max_steps": options.steps + warm_up,
            "per_device_train_batch_size": batch,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": not torch.cuda.is_available(),
            "dataloader_pin_memory": torch.cuda.is_available(),
        }
        arguments = TrainingArguments(output, **common | settings)
        trainer = Timed(
            AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2),
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=splits["train tokens"],
            eval_dataset=splits["validation tokens" if callbacks else "test tokens"],
            processing_class=tokenizer,
            callbacks=callbacks,
            compute_metrics=_accuracy if callbacks else None,
        )
        trainer.train()
        clock.end()
    return clock, trainer, splits


class StepClock:
    """Notes when each training step begins, and how many of its tokens are real.

    Args:
        started: When the process began, in seconds since the epoch.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.first = self.ended = self.saved = self.peak_memory = 0.0
        self.begun: list[float] = []
        self.masks: list[Any] = []

    def step(self, attention_mask: Any) -> None:
        """Note the beginning of a step."""
        _settle()
        if len(self.begun) == 1:
            self.first = time.time() - self.started
        self.begun.append(time.perf_counter())
        self.masks.append(attention_mask)

    def end(self) -> None:
        """Note the end of the last step so far."""
        _settle()
        self.ended = time.perf_counter()
        self.peak_memory = _peak_memory_mib()

    def record(self, warm_up: int) -> dict[str, float]:
        """Return rates per second, the share of computed tokens that is padding, and peak memory."""
        seconds = self.ended - self.begun[warm_up]
        sentences = sum(len(mask) for mask in self.masks[warm_up:])
        real = sum(int(mask.sum()) for mask in self.masks[warm_up:])
        computed = sum(mask.numel() for mask in self.masks[warm_up:])
        return {
            "train": sentences / seconds,
            "tokens": real / seconds,
            "padding_waste": 1 - real / computed,
            "seconds_to_first_step": self.first,
            "peak_memory_mib": self.peak_memory,
        }


RUN = {"machine": machine, "ours": ours, "eager": eager, "bare": bare, "tuned": tuned, "reference": reference}
RUN |= {"ours until": ours_until, "tuned until": tuned_until}

# --- report -----------------------------------------------------------------------------------------------------------


def report(records: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Print a table, and write it and the ratios to a file."""
    import torch
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from lit_bert.run.hardware import processor_name

    def middle(name: str, key: str) -> float:
        return statistics.median(record[key] for record in records[name])

    def ratio(key: str, other: str, name: str = "ours") -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(records[name], records[other], strict=True))

    gflops = [record["tokens"] * 6 * record["parameters"] / 1e9 for record in records["ours"]]
    summary = {
        "train_vs_reference": ratio("train", "reference"),
        "train_vs_tuned": ratio("train", "tuned"),
        "train_vs_bare": ratio("train", "bare"),
        **({"train_vs_eager": ratio("train", "eager")} if "eager" in records else {}),
        "evaluate_vs_tuned": ratio("evaluate", "tuned"),
        "predict_vs_pipeline": ratio("predict", "tuned"),
        "fraction_of_matmul_rate": statistics.median(gflops) / middle("machine", "bf16_gflops"),
        **{key: middle("ours", key) for key in REPORTED},
    }
    if "ours, busy" in records:
        summary["train_vs_tuned_busy"] = ratio("train", "tuned, busy", "ours, busy")
    if "ours, until" in records:
        for name in ("ours", "tuned"):
            summary[f"{name}_seconds_until"] = [record.get("seconds") for record in records[f"{name}, until"]]
    table = Table(box=box.SIMPLE_HEAD)
    titles = {
        "train": "train (range)",
        "evaluate": "eval",
        "predict": "predict",
        "padding_waste": "padding",
        "seconds_to_first_step": "start, s",
        "peak_memory_mib": "MiB",
    }
    for title in ("", *titles.values()):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for name in ("ours", "eager", "tuned", "reference", "ours, busy", "tuned, busy"):
        if name not in records:
            continue
        cells = []
        for key in titles:
            values = sorted(record[key] for record in records[name] if key in record)
            shown = {"padding_waste": "{:.1%}", "train": "{:.1f}", "seconds_to_first_step": "{:.1f}"}.get(key, "{:.0f}")
            spread = f" ({shown.format(values[0])} to {shown.format(values[-1])})" if key == "train" else ""
            cells.append(shown.format(statistics.median(values)) + spread if values else "")
        table.add_row(name, *cells)
    print("sentences per second, medians:")
    Console(highlight=False, width=100).print(table)
    for key, value in summary.items():
        values = value if isinstance(value, list) else [value]
        print(f"{key:24} {', '.join('not reached' if value is None else f'{value:.3g}' for value in values)}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    about = {
        "machine": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "lightning")},
        "rounds": options.rounds,
        "steps": options.steps,
        "batch": options.batch,
        "busy": options.busy,
        "until": options.until,
        "encoder": options.encoder,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**summary, **about, "records": records}, indent=2) + "\n")
    print(f"{'report':24} {options.out}")


if __name__ == "__main__":
    main()
