"""Each mistake gets one clear message and exit status 2, without a traceback and before anything is lost."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Hostile, Patch, Refused, make_recipe, make_reviews

from lit_bert.cli import main

Make = Callable[[Path], list[str]]
Case = tuple[str, Make, str]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def config(content: str | bytes) -> Make:
    return lambda folder: [f"--config={written(folder / 'bad.yaml', content)}"]


def rows(content: str | bytes, split: str = "test", only: bool = False) -> Make:
    def make(folder: Path) -> list[str]:
        for file in (folder / "reviews").glob("*.csv") if only else ():
            file.unlink()
        written(folder / "reviews" / f"{split}.csv", content)
        return []

    return make


def words(*given: str) -> Make:
    return lambda folder: [word.replace("FOLDER", str(folder)) for word in given]


def altered(change: Callable[[Path], object]) -> Make:
    """Give the run a changed copy of the encoder that its recipe names."""

    def make(folder: Path) -> list[str]:
        source = yaml.safe_load((folder / "tiny.yaml").read_text())["model"]["pretrained"]
        change(Path(shutil.copytree(source, folder / "encoder")))
        return [f"--model.pretrained={folder}/encoder"]

    return make


def enlarged(encoder: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**6}))


def without(pattern: str) -> Make:
    return altered(lambda encoder: [path.unlink() for path in encoder.glob(pattern)])


def damaged(name: str) -> Make:
    return altered(lambda encoder: os.truncate(encoder / name, 100))


def not_writable(folder: Path) -> list[str]:
    (folder / "out").touch()
    return [f"--trainer.default_root_dir={folder}/out"]


STOP = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/f1", "--trainer.callbacks.mode=min"]
CASES: list[Case] = [
    # command line and config files
    ("unknown option", words("--model.learning_rat=1"), "did you mean model.learning_rate?"),
    ("unknown group", words("--trainr.max_epochs=1"), "did you mean trainer.max_epochs?"),
    ("abbreviation", words("--model.learn=1"), "--model.learn"),
    ("not a number", words("--model.learning_rate=fast"), "model.learning_rate"),
    (
        "not a choice",
        words("--data.padding=left"),
        "--data.padding left: it must be one of longest, max_length, list[int]",
    ),
    ("a common name", words("--lr=1"), "unrecognized arguments: --lr=1; did you mean model.learning_rate?"),
    ("another", words("--epochs", "3"), "did you mean trainer.max_epochs?"),
    ("a recipe's name", words("--config=packaged.yaml"), "configs/packaged.yaml?"),
    (
        "misspelt callback",
        words("--trainer.callbacks+=EarlyStoping"),
        "there is no such class; did you mean EarlyStopping",
    ),
    (
        "callback lacks",
        words("--trainer.callbacks+=EarlyStopping"),
        "EarlyStopping: set --trainer.callbacks.monitor, too",
    ),
    (
        "logger lacks",
        words("--trainer.logger=CSVLogger"),
        "--trainer.logger CSVLogger: set --trainer.logger.save_dir, too",
    ),
    ("negative rate", words("--model.learning_rate=-1"), "--model.learning_rate -1.0: it must be between 0 and"),
    ("no batch", words("--data.batch_size=0"), "--data.batch_size 0: it must be at least 1"),
    ("an encoder of absurd size", altered(enlarged), "num_hidden_layers 1,000,000; no encoder has more than 1,000"),
    ("an option that is gone", words("--model.lora_rank=4"), "LoRA is a script now: examples/lora.py"),
    ("another one", words("--projector=true"), "it is gone; TensorBoard's page of errors"),
    ("a value that is gone", words("--data.long_text=windows"), "windows are gone: use head_tail"),
    ("a config from before", config("model:\n  lora_rank: 0\n"), "LoRA is a script now: examples/lora.py"),
    ("config missing", words("--config=FOLDER/none.yaml"), "none.yaml"),
    ("config is a folder", words("--config=FOLDER"), "not a file"),
    ("config not YAML", config("model: ["), "bad.yaml"),
    ("config not a mapping", config("hello"), "bad.yaml"),
    ("config not text", config(b"\x89PNG\xff"), "it is not text in UTF-8 (config file"),
    ("config key unknown", config("model:\n  learning_rte: 1\n"), "did you mean model.learning_rate?"),
    ("config section unknown", config("modell:\n  learning_rate: 1\n"), "did you mean model"),
    ("config without its option", words("configs/packaged.yaml"), "did you mean --config configs/packaged.yaml?"),
    ("data without its option", words("reviews.csv"), "did you mean --data.dataset reviews.csv?"),
    ("checkpoint without its option", words("runs/a/last.ckpt"), "did you mean --ckpt_path runs/a/last.ckpt?"),
    # samples and data
    ("too many rows", words("--data.val_rows=21"), "--data.val_rows 21: the validation split of"),
    ("no rows", words("--data.train_rows=0"), "--data.train_rows 0: it must be at least 1"),
    ("data folder missing", words("--data.dataset=./none"), "--data.dataset ./none: there is no such file or folder"),
    ("data set unknown", words("--data.dataset=some/data"), "--data.dataset some/data: not in the Hugging Face cache"),
    ("data file missing", words("--data.dataset.train=a.csv"), "--data.dataset.train a.csv: there is no such file"),
    ("too few to hold out", rows("text,label\nfine,1\nbad,5\ndull,5\n", "train", only=True), "class '1' has 1 row(s)"),
    ("empty file", rows(""), "test.csv: the file is empty"),
    ("no row", rows("text,label\n"), "test.csv: the file has no rows"),
    ("not UTF-8", rows(b"text,label\nsch\xf6n,pos\n"), "test.csv, line 2: not UTF-8 (byte 0xf6"),
    ("UTF-16", rows("text,label\nfine,pos\n".encode("utf-16")), "save the file as UTF-8 in place of UTF-16"),
    ("encoding that hides line ends", words("--data.encoding=utf-16"), "--data.encoding utf-16: it must be one that"),
    (
        "option of no class",
        words("--trainer.logger.save_dir=logs"),
        "save_dir: it is an option of a class; name that first",
    ),
    (
        "misspelt optimizer",
        words("--optimizer=AdamWW"),
        "--optimizer AdamWW: there is no such class; did you mean AdamW?",
    ),
    ("no text column", rows("body,label\nfine,pos\n"), "test.csv: no column 'text', only body, label"),
    ("no label column", rows("text,stars\nfine,5\n", "train"), "name it with --data.label_column"),
    ("text missing", rows("text,label\nfine,pos\n,neg\n"), "test.csv, row 2: no text in column 'text'"),
    ("label missing", rows("text,label\nfine,pos\ndull,\n", "train"), "row 2: no label in column 'label'"),
    ("label unknown", rows("text,label\nfine,pos\ndull,meh\n"), "row 2: label 'meh' in column 'label' is not one of"),
    ("label of another type", rows("text,label\nfine,pos\ndull,0\n"), "of another type"),
    ("classes of one split alone", rows("text,label\nfine,1\nbad,5\n", "train"), "'pos' in column 'label' is not one"),
    ("class number of 30 digits", rows("text,label\nfine,1\nbad," + "9" * 30 + "\n"), "of another type"),
    ("one class", rows("text,label\nfine,pos\ngood,pos\n", "train"), "has the one class 'pos'"),
    # encoders
    ("model unknown", words("--model.pretrained=some/bert"), "--model.pretrained some/bert: not in the Hugging Face"),
    ("model folder missing", words("--model.pretrained=./none"), "--model.pretrained ./none: there is no such folder"),
    ("no model in the folder", without("*"), "the folder has no config.json"),
    ("no weights in the folder", without("*.safetensors"), "but no weights"),
    ("no tokenizer in the folder", without("tokenizer*"), "a model but no tokenizer"),
    ("tokenizer damaged", damaged("tokenizer.json"), "its tokenizer cannot be used"),
    ("config damaged", damaged("config.json"), "its config.json cannot be used"),
    ("weights damaged", damaged("model.safetensors"), "cannot be loaded"),
    ("model is a file", words("--model.pretrained=FOLDER/tiny.yaml"), "tiny.yaml: this is a file"),
    ("too long", words("--data.max_length=33"), "--data.max_length 33: "),
    # checkpoints
    ("checkpoint missing", words("--ckpt_path=FOLDER/none.ckpt"), "none.ckpt: there is no such file"),
    ("old name of an option", words("--model.cuda_graph=true"), "did you mean model.cuda_graphs?"),
    ("a class of one's own", words("--model.class_path=my.Model"), "main(model_class=YourClass)"),
    ("no optimizer", words("--optimizer=torch.nn.Linear"), "torch.nn.Linear"),
    ("logger that is not installed", words("--trainer.logger=WandbLogger"), "wandb"),
    ("checkpoint is a folder", words("--ckpt_path=FOLDER"), "this is a folder, which only `predict --input` takes"),
    # the machine
    ("no GPU", words("--trainer.accelerator=gpu"), "found; --trainer.accelerator auto takes the best device"),
    (
        "no CUDA",
        words("--trainer.accelerator=cuda"),
        "is not available; --trainer.accelerator auto takes the best",
    ),
    ("unknown accelerator", words("--trainer.accelerator=abacus"), "abacus"),
    ("unknown precision", words("--trainer.precision=7"), "precision"),
    ("fp16", words("--trainer.precision=fp16"), "--trainer.precision fp16: it must be one of transformer-engine, "),
    ("no epochs", words("--trainer.max_epochs=0"), "--trainer.max_epochs 0: nothing would be trained"),
    ("no steps", words("--trainer.max_steps=0"), "--trainer.max_steps 0: nothing would be trained"),
    ("names that YAML takes for truth", words("--data.class_names=[no, yes]"), 'in quotes: \'["no", "yes"]\''),
    ("the highest loss", words("--checkpoint.monitor=val/loss", "--checkpoint.mode=max"), "of val/loss the lowest is"),
    (
        "stop at the lowest accuracy",
        words(*STOP),
        "callbacks.mode min: of val/f1 the highest is the best; set --trainer",
    ),
    ("no last step", words("--trainer.max_epochs=-1"), "--trainer.max_epochs -1: "),
    ("seed out of range", words("--seed_everything=-1"), "-1"),
    ("checks too rare", words("--trainer.val_check_interval=50"), "val_check_interval"),
    ("output not writable", not_writable, "out: cannot be written"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_mistake(make: Make, message: str, recipe: str, tmp_path: Path, refused: Refused) -> None:
    said = refused(["fit", "--config", recipe, *make(tmp_path)])
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) <= 4
    assert not list(Path().glob("runs/*"))


def test_bad_checkpoints(best: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copy(best, tmp_path / "good.ckpt")
    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.ckpt")
    for command, name, more, message in (
        ("test", "hostile.ckpt", [], "hostile.ckpt: refused"),
        ("test", "good.ckpt", ["--model.pretrained=packaged"], "not from --model.pretrained packaged"),
        ("test", "good.ckpt", ["--data.class_names=[a,b]"], "label 'pos' in column 'label' is not one of a, b"),
        ("test", "good.ckpt", ["--data.max_length=99"], "--data.max_length 99: "),
        ("test", "good.ckpt", ["--trainer.limit_test_batches=0"], "limit_test_batches: nothing was evaluated"),
        ("validate", "good.ckpt", ["--trainer.limit_val_batches=0"], "limit_val_batches: nothing was evaluated"),
    ):
        assert message in refused([command, f"--ckpt_path={tmp_path}/{name}", *more])
    assert not Path("ran").exists()


def test_two_devices_where_there_is_one_gpu(recipe: str, monkeypatch: Patch, refused: Refused) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    said = refused(["fit", "--config", recipe, "--trainer.accelerator=gpu", "--trainer.devices=2"])
    assert "You requested gpu: [0, 1]" in said


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the disk be full for a file that would be larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_older_checkpoint(ended: Path, refused: Refused) -> None:
    last = ended / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    with files_of_at_most(len(before) // 2):
        said = refused(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=5"])
    assert ".ckpt: File too large; checkpoints written before" in said
    assert last.read_bytes() == before
    assert not list(ended.rglob("*.partial"))
    assert json.loads((ended / "metrics.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1_000, "a tokenizer cannot be written there (File too large (os error 27)); free some space, or set TMPDIR"),
        (20_000, "File too large; free some space there, or set LIT_BERT_CACHE"),
    ],
)
def test_a_full_disk_while_tokenising_is_explained_and_heals(
    tiny_bert: str, tmp_path: Path, size: int, message: str, refused: Refused
) -> None:
    recipe = make_recipe(tmp_path / "large.yaml", tiny_bert, make_reviews(tmp_path / "large", copies=size // 400))
    with files_of_at_most(size):
        assert message in refused(["fit", "--config", recipe])
    assert not list(Path().glob("runs/*"))
    main(["fit", "--config", recipe, "--trainer.fast_dev_run=true"])
