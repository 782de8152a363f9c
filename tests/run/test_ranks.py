"""Any number of ranks gives the same numbers."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from processes import finish, run, start

from lit_bert.modeling.checkpoint import Checkpoint, read_safely


@pytest.fixture
def still(recipe: str, still_bert: str) -> str:
    """The recipe, without dropout."""
    config = yaml.safe_load(Path(recipe).read_text())
    config["model"]["pretrained"] = still_bert
    config["data"]["batch_size"] = 18  # 40 rows: the last step has 4, of which 3 ranks do not get equally many
    Path(recipe).write_text(yaml.safe_dump(config))
    return recipe


def weights(root: str) -> dict[str, torch.Tensor]:
    [path] = Path(root).glob("*/checkpoints/last.ckpt")
    return {k: v for k, v in read_safely(path)["state_dict"].items() if "key.bias" not in k}


@pytest.mark.parametrize(
    "options",
    [[], ["--model.class_weights=balanced", "--data.long_text=head_tail", "--data.max_length=5"]],
    ids=["plain", "class weights and long texts"],
)
def test_ranks_and_accumulation_train_alike(options: list[str], still: str, reviews: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = (reviews / "train.csv").read_text().splitlines()
    if options:  # classes of 20 and 14 rows
        (reviews / "train.csv").write_text("\n".join(rows[:35]) + "\n")
    words = ["fit", "--config", still, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", *options]
    run([*words, "--trainer.default_root_dir=one"], log)
    expected = weights("one")
    for ranks, size, accumulate in ((2, 9, 1), (3, 6, 1), (3, 3, 2)):
        root = f"--trainer.default_root_dir={ranks}x{size}"
        run([*words, root, f"--data.batch_size={size}", f"--trainer.accumulate_grad_batches={accumulate}"], log, ranks)
        for name, value in weights(f"{ranks}x{size}").items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4, msg=f"{ranks} {name}")


def test_evaluation_and_prediction_are_equal_to_the_last_bit(recipe: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(["fit", "--config", recipe, "--test_after_fit=false"], log)
    [path] = Path("runs").glob("*/checkpoints/last.ckpt")
    moved = path.rename("alone.ckpt")  # each command makes a folder of its own
    found = []
    for ranks in (1, 2, 3):
        for command in ("test", "predict"):
            words = [command, f"--ckpt_path={moved}", f"--trainer.default_root_dir={command}{ranks}"]
            run(
                [*words, "--data.eval_batch_size=7"], log, ranks
            )  # 30 rows: 5 batches, which 2 and 3 ranks share unevenly
        [metrics] = Path(f"test{ranks}").glob("*/metrics-test.json")
        [predictions] = Path(f"predict{ranks}").glob("*/predictions.csv")
        found.append((json.loads(metrics.read_text())["test"], predictions.read_text()))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["rows"] == 30
    assert len(found[0][1].splitlines()) == 31


TRAIN = str(Path(__file__).parents[2] / "train.py")
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nnodes=2",
    "--nproc_per_node=1",
    "--master_addr=127.0.0.1",
]


def finished(commands: list[list[str]]) -> list[str]:
    """Run commands side by side to their good end, and return what they print."""
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(commands), "\n".join(said)
    return said


def test_two_devices_and_two_nodes_by_the_words_of_the_readme(recipe: str) -> None:
    """One command that starts both ranks, then two torchrun agents, as on two nodes, that meet on the loopback."""
    words = ["fit", "--config", recipe, "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
    [said] = finished([[sys.executable, TRAIN, *words, "--trainer.devices=2"]])
    assert "device   2 x cpu" in said
    assert "Traceback" not in said
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [[*TORCHRUN, f"--master_port={port}", f"--node_rank={node}", TRAIN] for node in (0, 1)]
    finished([[*agent, *words, "--trainer.devices=1", "--trainer.num_nodes=2"] for agent in agents])
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


def test_processes_of_torchrun_train_together_though_the_trainer_is_not_told_how_many(recipe: str) -> None:
    command = [*TORCHRUN, "--nnodes=1", "--nproc_per_node=2", TRAIN, "fit", "--config", recipe]
    command.remove("--nnodes=2")
    command.remove("--nproc_per_node=1")
    [said] = finished([[*command, "--trainer.accelerator=cpu"]])
    assert "device   2 x cpu" in said
    assert len(list(Path("runs").iterdir())) == 1


def test_processes_of_torchrun_that_the_trainer_would_not_use_are_refused(recipe: str) -> None:
    command = [*TORCHRUN, "--nnodes=1", "--nproc_per_node=2", TRAIN, "fit", "--config", recipe]
    command.remove("--nnodes=2")
    command.remove("--nproc_per_node=1")
    done = subprocess.run([*command, "--trainer.devices=1"], capture_output=True, text=True)
    assert done.returncode != 0
    message = (
        "error: torchrun started 2 processes, but --trainer.devices times --trainer.num_nodes is 1; make them equal"
    )
    assert message in done.stderr
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_start_processes_of_their_own(recipe: str, strategy: str) -> None:
    words = ["fit", "--config", recipe, "--trainer.accelerator=cpu", "--trainer.devices=2"]
    [said] = finished([[sys.executable, TRAIN, *words, f"--trainer.strategy={strategy}"]])
    assert "Traceback" not in said
    assert "device   2 x cpu" in said
    [run_dir] = Path("runs").iterdir()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {split: metrics[split]["rows"] for split in ("val", "test")} == {"val": 20, "test": 30}
    assert Checkpoint.read(run_dir / metrics["checkpoint"]).global_step in (3, 6)
    assert (run_dir / "export" / "model.safetensors").is_file()
