"""Every test runs in an empty folder, with empty caches, out of reach of any Hub but the one it starts itself."""

import csv
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from processes import free_port

_PREFIX = f"lit_bert_tests_{os.environ.get('PYTEST_XDIST_WORKER', 'all')}_"
if _PREFIX not in os.environ.get("LIT_BERT_CACHE", ""):  # processes that a test starts inherit these
    _HOME = tempfile.TemporaryDirectory(prefix=_PREFIX)
    os.environ |= {
        "OMP_NUM_THREADS": "1",  # two workers share two cores
        "LIT_BERT_CACHE": f"{_HOME.name}/lit_bert",
        "HF_HOME": f"{_HOME.name}/huggingface",
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # refused until a test starts a Hub there
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "JSONARGPARSE_DEPRECATION_WARNINGS": "off",  # of calls that LightningCLI makes
    }
HUB_PORT = int(os.environ["HF_ENDPOINT"].rpartition(":")[2])

import pytest  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from hub import Hub, serving  # noqa: E402
from quick import end_quickly  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from tensorboard.summary.writer import event_file_writer  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
)

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
}
"""Arguments of a Trainer that leaves nothing behind."""

NO_END = ["--test_after_fit=false", "--export_after_fit=false"]
"""Options of a `fit` that ends when it has trained."""

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Refused = Callable[..., str]
Stopped = Callable[..., str]
CONFIGS = Path(__file__).parent.parent / "configs"
GOOD = ["a warm and funny film", "great fun", "a moving , clever story", "the best film of the year", "lovely"]
BAD = ["a cold and dull film", "no fun", "a boring , stupid story", "the worst film of the year", "awful"]
WORDS = sorted({word for text in GOOD + BAD for word in text.split()})


LONGEST = ("test_ranks", "test_real", "test_faults", "test_removable", "test_resume", "test_study_processes")
"""Files that take longest: begun first, they are not what the other process waits for at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def _clean_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    # TensorBoard reads a folder's files by name, where a process's tenth stands before its ninth of the same second.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    monkeypatch.delenv("LIT_BERT_RECIPE", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    os.environ.clear()
    os.environ.update(before)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _quick_ends(request: pytest.FixtureRequest, monkeypatch: Patch) -> None:
    """The pixels of figures, which take most of a tiny run's time, are for tests that ask for `pixels`."""
    if "pixels" not in request.fixturenames:
        end_quickly(monkeypatch.setattr)


@pytest.fixture
def pixels() -> None:
    """Runs end as they do for a user."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub without repositories, and an empty cache of it."""
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    with serving(HUB_PORT) as server:
        yield server
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture
def stopped(capsys: Capture) -> Stopped:
    """A function that runs a command which is to end with a status, and returns what it says on its way out."""
    from lit_bert.cli import main

    def run(words: list[str], status: int = 0, command: Callable[[list[str]], object] = main) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command(words)
        said = capsys.readouterr()
        assert (stop.value.code or 0) == status
        return said.err if status else said.out

    return run


@pytest.fixture
def refused(stopped: Stopped) -> Refused:
    """A function that runs a command of which a mistake is to be told, and returns what is said."""

    def run(words: list[str], **command: Any) -> str:
        said = stopped(words, 2, **command)
        assert said.startswith("error: ") or "\nerror: " in said
        assert "Traceback" not in said
        return said

    return run


def make_bert(folder: Path) -> str:
    """Save a BERT of two layers, its tokenizer, and random weights, and return the folder."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {token: number for number, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=32).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny BERT."""
    return make_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def still_bert(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with weights to start from, the classifier's too, and no dropout."""
    folder = tmp_path_factory.mktemp("still_bert")
    config = AutoConfig.from_pretrained(tiny_bert, num_labels=2, id2label={0: "neg", 1: "pos"})
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.initializer_range = 0.15  # gradients that have to be clipped, and predictions that 21 small steps change
    with torch.random.fork_rng():
        torch.manual_seed(4)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return str(folder)


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def accumulated(run: Path) -> EventAccumulator:
    """Return all that is in a run's TensorBoard files."""
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def events(run: Path) -> dict[str, list[float]]:
    """Return the scalars of a run's TensorBoard files, in the order of their steps."""
    found = accumulated(run)
    return {tag: [event.value for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def write_csv(path: Path, copies: int) -> None:
    """Write labelled sentences, all good ones before all bad ones."""
    rows = [f'"{text}",{label}' for texts, label in ((GOOD, "pos"), (BAD, "neg")) for text in texts * copies]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make_reviews(folder: Path, copies: int = 1) -> Path:
    """Write 40 training, 20 validation and 30 test rows, or some times as many, as CSV."""
    folder.mkdir()
    for split, more in (("train", 4), ("validation", 2), ("test", 3)):
        write_csv(folder / f"{split}.csv", copies * more)
    return folder


def make_recipe(path: Path, bert: str, reviews: Path) -> str:
    """Write a config file that trains a BERT on such rows for two epochs."""
    config = {
        "trainer": {"max_epochs": 2, "precision": "32-true"},
        "model": {"pretrained": bert, "learning_rate": 0.003},
        "data": {"dataset": str(reviews), "batch_size": 8},
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture
def recipe(tiny_bert: str, reviews: Path, tmp_path: Path) -> str:
    """A config file that trains the tiny BERT on those rows for two epochs, in a second."""
    return make_recipe(tmp_path / "tiny.yaml", tiny_bert, reviews)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A folder with 40 training, 20 validation and 30 test rows, as CSV."""
    return make_reviews(tmp_path / "reviews")


@pytest.fixture
def data(tiny_bert: str, reviews: Path) -> Any:
    """A data module of those rows."""
    from lit_bert import TextClassificationDataModule

    return TextClassificationDataModule(str(reviews), tiny_bert, batch_size=8)


@pytest.fixture(scope="session")
def trained(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended: the tiny BERT on those rows, which it tells apart somewhat."""
    from lit_bert.cli import main

    folder = tmp_path_factory.mktemp("trained")
    config = make_recipe(folder / "tiny.yaml", tiny_bert, make_reviews(folder / "reviews"))
    words = ["--trainer.max_epochs=4", f"--trainer.default_root_dir={folder / 'runs'}"]
    run: Path = main(["fit", "--config", config, *words]).run_dir
    return run


@pytest.fixture
def ended(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, of four epochs and 20 steps, which can be trained on."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "ended"))


@pytest.fixture
def best(trained: Path) -> Path:
    """The best checkpoint of that run."""
    [path] = trained.glob("checkpoints/epoch=*.ckpt")
    return path
