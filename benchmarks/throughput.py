"""How fast is it? Training, evaluation and prediction beside the Hugging Face Trainer and pipeline, and the machine.

Each contestant runs in a process of its own, one after the other, for some rounds, so that whatever else slows the
machine slows all of them alike; a ratio is the median of the rounds' ratios.

    reference   transformers.Trainer with its defaults: batch 8, every sentence padded to 512 tokens
    tuned       transformers.Trainer as an expert sets it: batch 32, dynamic padding, length grouping, bfloat16;
                prediction with pipeline("text-classification"), in as large batches
    ours        lit_bert, batch 32, with --compile through CUDA graphs
    bare        the same without what makes a run resumable: random states, signals, checks of the loss; of both, the
                checkpoint at the end is timed apart
    machine     products of large matrices
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONTESTANTS = ("machine", "ours", "bare", "tuned", "reference")
WARM_UP = 5  # steps that are not counted
REPORTED = ("padding_waste", "seconds_to_first_step", "checkpoint_seconds", "peak_memory_mib")
SHAPES = [16, 24, 32, 40, 48, 64, 80]  # padded lengths, for --compile


def main() -> None:
    """Run the rounds and report, or run one contestant and print its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="packaged", help="encoder: packaged, a folder, or a Hub model id")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant runs (default: 5)")
    parser.add_argument("--steps", type=int, default=60, help="training steps timed per round (default: 60)")
    parser.add_argument("--batch", type=int, default=32, help="rows per batch of ours and tuned (default: 32)")
    parser.add_argument("--compile", action="store_true", help="compile ours; its first epoch is not counted")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="report (default: runs/bench.json)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help="run this one once and print its record")
    options = parser.parse_args()
    if options.contestant:
        started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + _process_start()
        print("\n" + json.dumps(RUN[options.contestant](options, started)))
        return
    records: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for number in range(1, options.rounds + 1):
        for name in CONTESTANTS:
            print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            records[name].append(_in_a_process(name, options))
    report(records, options)


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--contestant", name, "--encoder", options.encoder]
    command += ["--steps", str(options.steps), "--batch", str(options.batch), *(["--compile"] * options.compile)]
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


def _settle() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- contestants ------------------------------------------------------------------------------------------------------


def machine(options: argparse.Namespace, started: float) -> dict[str, float]:
    """Return the rate of matrix products, in GFLOP/s."""
    import torch

    from lit_bert.training.hardware import measure_matmul_gflops

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "bf16_gflops": measure_matmul_gflops(device, bf16=True),
        "fp32_gflops": measure_matmul_gflops(device, bf16=False),
    }


def ours(options: argparse.Namespace, started: float, resumable: bool = True) -> dict[str, float]:
    """Time this project, with the settings of its command line."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything
    from lightning.pytorch.loggers import TensorBoardLogger

    from lit_bert import BertClassifier, Predictor, TextClassificationDataModule
    from lit_bert.console import silence_chatter
    from lit_bert.training import hardware
    from lit_bert.training.preemption import PreemptionCheckpoint

    silence_chatter()
    hardware.keep_freed_memory()
    seed_everything(1, verbose=False)
    clock = StepClock(started)

    class Timed(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            clock.step(batch.get("attention_mask", torch.ones_like(batch["input_ids"])))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == trainer.max_steps:
                clock.end()  # before the checkpoint that ends a run

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            clock.saved = time.perf_counter() - clock.ended

    model = BertClassifier(options.encoder, learning_rate=1e-4, compile=options.compile)
    padding: Any = SHAPES if options.compile else "longest"
    data = TextClassificationDataModule("packaged", options.encoder, batch_size=options.batch, padding=padding)
    data.prepare_data()
    data.setup("fit")
    warm_up = len(data.train_dataloader()) if options.compile else WARM_UP
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=options.steps + warm_up,
            limit_val_batches=0,
            precision="bf16-mixed" if hardware.has_fast_bf16("auto") else "32-true",
            gradient_clip_val=1.0,
            logger=TensorBoardLogger(folder),
            log_every_n_steps=10,
            callbacks=[Timed(), *([PreemptionCheckpoint(Path(folder) / "last.ckpt")] if resumable else [])],
            enable_checkpointing=resumable,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
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

    settings = {"train_sampling_strategy": "group_by_length", "bf16": True, "per_device_eval_batch_size": options.batch}
    clock, trainer, splits = _hugging_face(
        options, started, batch=options.batch, warm_up=WARM_UP, pad_to=None, **settings
    )
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
    return {**clock.record(), **rates}


def _hugging_face(
    options: argparse.Namespace, started: float, batch: int, warm_up: int, pad_to: int | None, **settings: Any
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
    for name in ("train", "test"):
        rows = splits[name].map(lambda rows: tokenizer(rows["text"], truncation=True, **padding), batched=True)
        splits[f"{name} tokens"] = rows.rename_column("label", "labels")
    clock = StepClock(started)

    class Timed(Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            clock.step(inputs["attention_mask"])
            return super().training_step(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output,
            max_steps=options.steps + warm_up,
            per_device_train_batch_size=batch,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            **settings,
        )
        trainer = Timed(
            AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2),
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=splits["train tokens"],
            eval_dataset=splits["test tokens"],
            processing_class=tokenizer,
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
        self.first = self.ended = self.saved = 0.0
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

    def record(self, warm_up: int = WARM_UP) -> dict[str, float]:
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
            "peak_memory_mib": _peak_memory_mib(),
        }


RUN = {"machine": machine, "ours": ours, "bare": bare, "tuned": tuned, "reference": reference}

# --- report -----------------------------------------------------------------------------------------------------------


def report(records: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Print a table, and write it and the ratios to a file."""
    import torch
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from lit_bert.training.hardware import processor_name

    def middle(name: str, key: str) -> float:
        return statistics.median(record[key] for record in records[name])

    def ratio(key: str, other: str) -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(records["ours"], records[other], strict=True))

    gflops = [record["tokens"] * 6 * record["parameters"] / 1e9 for record in records["ours"]]
    summary = {
        "train_vs_reference": ratio("train", "reference"),
        "train_vs_tuned": ratio("train", "tuned"),
        "train_vs_bare": ratio("train", "bare"),
        "evaluate_vs_tuned": ratio("evaluate", "tuned"),
        "predict_vs_pipeline": ratio("predict", "tuned"),
        "fraction_of_matmul_rate": statistics.median(gflops) / middle("machine", "bf16_gflops"),
        **{key: middle("ours", key) for key in REPORTED},
    }
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
    for name in ("ours", "tuned", "reference"):
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
        print(f"{key:24} {value:.3g}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    about = {
        "machine": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "lightning")},
        "rounds": options.rounds,
        "steps": options.steps,
        "batch": options.batch,
        "compile": options.compile,
        "encoder": options.encoder,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**summary, **about, "records": records}, indent=2) + "\n")
    print(f"{'report':24} {options.out}")


if __name__ == "__main__":
    main()
