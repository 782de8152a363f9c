"""Any number of ranks gives the same numbers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import NO_END, events, make_recipe, make_reviews
from models import Weights, close
from processes import CONTEXT, finish, free_port, run, start
from torch.distributed.run import main as torchrun

from lit_bert.cli import main
from lit_bert.modeling.checkpoint import Checkpoint, read_safely

TRAIN = str(Path(__file__).parents[2] / "train.py")
FITS = {"plain": [], "several": ["--model.class_weights=balanced", "--data.long_text=head_tail", "--data.max_length=5"]}


def commands(alone: Path, root: Path, *layouts: tuple[int, int]) -> list[list[str]]:
    """Return what trains with some sizes of batches and accumulations, tests, and predicts."""
    fits = []
    for name, options in FITS.items():
        for size, accumulate in layouts:
            words = ["fit", "--config", f"{alone}/{name}.yaml", f"--data.batch_size={size}", *options, *NO_END]
            words += [f"--trainer.accumulate_grad_batches={accumulate}"]
            fits.append([*words, f"--trainer.default_root_dir={root}/{name}-{size}x{accumulate}"])
    shared = [f"--ckpt_path={alone}/alone.ckpt", "--data.eval_batch_size=7"]  # 5 batches, which are shared unevenly
    return fits + [[name, *shared, f"--trainer.default_root_dir={root}/{name}"] for name in ("test", "predict")]


def weights(root: Path) -> Weights:
    [path] = root.glob("*/checkpoints/last.ckpt")
    return read_safely(path)["state_dict"]


def logged(root: Path) -> dict[str, list[float]]:
    """What is logged of the rows of each epoch; a rank's mean of its own batches would differ."""
    [run] = root.iterdir()
    tags = ("train/acc", "train/f1", "val/acc", "val/f1", "val/loss")
    return {tag: values for tag, values in events(run).items() if tag in tags}


def evaluated(root: Path) -> tuple[Any, str]:
    [metrics] = root.glob("test/*/metrics-test.json")
    [predictions] = root.glob("predict/*/predictions.csv")
    return json.loads(metrics.read_text())["test"], predictions.read_text()


@pytest.fixture(scope="module")
def alone(still_bert: str, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands need, and the runs of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    for name in FITS:  # 40 rows: the last step has 4, of which 3 ranks do not get equally many
        make_recipe(folder / f"{name}.yaml", still_bert, make_reviews(folder / name))
    rows = (folder / "several" / "train.csv").read_text().splitlines()
    (folder / "several" / "train.csv").write_text("\n".join(rows[:35]) + "\n")  # classes of 20 and 14 rows
    shutil.copy(trained / "checkpoints" / "last.ckpt", folder / "alone.ckpt")  # each command makes a folder of its own
    for words in commands(folder, folder, (18, 1)):
        main(words)
    return folder


@pytest.mark.parametrize(("ranks", "layouts"), [(2, [(9, 1)]), (3, [(6, 1), (3, 2)])])
def test_ranks_and_accumulation_give_the_same(ranks: int, layouts: Any, alone: Path, tmp_path: Path) -> None:
    """Trained weights are close, and evaluation and prediction equal to the last bit."""
    first, *then = commands(alone, tmp_path, *layouts)
    run(first, tmp_path / "log", ranks, then=then)
    for fit in FITS:
        expected = weights(alone / f"{fit}-18x1")
        for size, accumulate in layouts:
            folder = tmp_path / f"{fit}-{size}x{accumulate}"
            close(expected, weights(folder))
            for name, value in logged(folder).items():
                assert value == pytest.approx(logged(alone / f"{fit}-18x1")[name], abs=1e-5), f"{fit} {name}"
    metrics, predictions = evaluated(tmp_path)
    assert len(logged(folder)) == 5
    assert (metrics, predictions) == evaluated(alone)
    assert metrics["rows"] == 30
    assert len(predictions.splitlines()) == 31


def test_two_devices_and_two_nodes_by_the_words_of_the_readme(recipe: str) -> None:
    """One command that starts both ranks, then two torchrun agents, as on two nodes, that meet on the loopback."""
    words = ["fit", "--config", recipe, "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
    words += ["--trainer.max_epochs=1", "--export_after_fit=false"]
    done = subprocess.run([sys.executable, TRAIN, *words, "--trainer.devices=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "device   2 x cpu" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    shared = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    words += ["--trainer.devices=1", "--trainer.num_nodes=2"]
    nodes = [
        CONTEXT.Process(target=torchrun, args=([*shared, f"--node_rank={node}", TRAIN, *words],)) for node in (0, 1)
    ]
    for node in nodes:
        node.start()
    assert finish(nodes, 120) == [0, 0]
    first, second = sorted(Path("runs").iterdir())
    one, two = (json.loads((run / "metrics.json").read_text()) for run in (first, second))
    assert (one["val"], one["test"]) == (two["val"], two["test"])
    assert json.loads((second / "provenance.json").read_text())["hardware"]["devices"] == ["cpu", "cpu"]


def test_a_mistake_on_two_ranks_is_told_once_and_ends_both(recipe: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert finish(start(["fit", "--config", recipe, "--data.train_rows=41"], log, 2), 60) == [2, 1]
    assert log.read_text().count("error: --data.train_rows 41: the train split of") == 1
    assert "error: rank 1 lost another rank, whose message says why (" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_processes_of_torchrun_train_together_though_the_trainer_is_not_told(recipe: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    untold = ["--trainer.devices=auto", "--trainer.strategy=auto", "--trainer.max_epochs=1", *NO_END]
    run(["fit", "--config", recipe, *untold], log, 2)
    assert "device   2 x cpu" in log.read_text()
    assert len(list(Path("runs").iterdir())) == 1


def test_processes_of_torchrun_that_the_trainer_would_not_use_are_refused(recipe: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert all(finish(start(["fit", "--config", recipe, "--trainer.devices=1", "--trainer.strategy=auto"], log, 2)))
    message = "torchrun started 2 processes, but --trainer.devices times --trainer.num_nodes is 1; make them equal"
    assert f"error: {message}" in log.read_text()
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_start_processes_of_their_own(recipe: str, tmp_path: Path, strategy: str) -> None:
    log = tmp_path / "log"
    words = ["fit", "--config", recipe, "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.max_epochs=1"]
    run([*words, f"--trainer.strategy={strategy}"], log)
    assert "Traceback" not in log.read_text()
    assert "device   2 x cpu" in log.read_text()
    [run_dir] = Path("runs").iterdir()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {split: metrics[split]["rows"] for split in ("val", "test")} == {"val": 20, "test": 30}
    assert Checkpoint.read(run_dir / metrics["checkpoint"]).global_step == 3
    assert (run_dir / "export" / "model.safetensors").is_file()
