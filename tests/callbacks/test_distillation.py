import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, QUIET, Capture, Patch, Refused, events, make_recipe
from equality import equal_runs, same
from lightning.pytorch import Trainer
from models import Weights, weights_of
from processes import run
from steps import SIGNALS, Rows, rows_of_steps  # noqa: F401
from torch.nn import functional as F

from lit_bert import BertClassifier, Predictor, TextClassificationDataModule
from lit_bert.callbacks.distillation import Distillation
from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.evaluation.hparams import FIRST, hyperparameters


@pytest.fixture
def teacher(best: Path) -> str:
    return str(best)


def fit(start: str, reviews: Path, distillation: Distillation | None) -> Weights:
    data = TextClassificationDataModule(str(reviews), start, batch_size=16)
    model = BertClassifier(start, learning_rate=0.003)
    callbacks = [distillation] if distillation else []
    Trainer(max_epochs=2, limit_val_batches=0, callbacks=callbacks, **QUIET).fit(model, data)
    return weights_of(model)


def test_the_loss_is_that_of_hinton(teacher: str, still_bert: str, reviews: Path) -> None:
    """Each row has its own teacher's answer, whatever the order of the batches."""
    data = TextClassificationDataModule(str(reviews), still_bert, batch_size=16)
    model = BertClassifier(still_bert, learning_rate=0.0)
    seen = []

    class Watched(Distillation):
        def on_before_backward(self, trainer, pl_module, loss):
            own = loss.detach().clone()
            super().on_before_backward(trainer, pl_module, loss)
            seen.append((self._batch["index"], self._logits.detach(), own, loss.detach().clone()))

    distillation = Watched([teacher, teacher], temperature=3.0, weight=0.25)
    Trainer(max_epochs=1, limit_val_batches=0, callbacks=[distillation], **QUIET).fit(model, data)
    for index, logits, own, mixed in seen:
        texts, _ = data.texts("train", index)
        probs = torch.tensor([list(found.probs.values()) for found in Predictor(teacher)(texts)])
        softened = F.softmax(probs.log() / 3, dim=-1)
        divergences = (softened * (softened.log() - F.log_softmax(logits / 3, dim=-1))).sum(dim=-1)
        torch.testing.assert_close(mixed, 0.75 * own + 0.25 * 9 * divergences.mean(), atol=1e-4, rtol=1e-3)
    index = torch.cat([batch[0] for batch in seen])
    assert len(set(index.tolist())) == 40


def test_without_a_teacher_or_a_weight_nothing_changes(teacher: str, still_bert: str, reviews: Path) -> None:
    plain = fit(still_bert, reviews, None)
    for distillation in (Distillation(), Distillation(teacher, weight=0.0)):
        same(fit(still_bert, reviews, distillation), plain)
    taught = fit(still_bert, reviews, Distillation(teacher))
    assert not torch.equal(taught["model.classifier.weight"], plain["model.classifier.weight"])


def test_fit_asks_teachers_once(recipe: str, teacher: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))
    words = ["fit", "--config", recipe, f"--distillation.teacher={teacher}", "--test_after_fit=false"]
    cli = main(words)
    assert "teacher  " in capsys.readouterr().out
    assert f"teacher: {teacher}" in (cli.run_dir / "config.yaml").read_text()
    compared = hyperparameters(cli.trainer, cli.model, cli.datamodule, 1)
    assert (compared["teacher"], compared["temperature"], compared["teacher_weight"]) == (teacher, 2.0, 0.9)
    plain = main([*words[:3], "--test_after_fit=false"]).trainer
    assert set(hyperparameters(plain, cli.model, cli.datamodule, 1)) <= set(FIRST)
    main(words)
    assert "teacher  " not in capsys.readouterr().out


def test_mistakes(teacher: str, still_bert: str, tmp_path: Path, reviews: Path) -> None:
    with pytest.raises(UserError, match="temperature 0"):
        Distillation(teacher, temperature=0)
    with pytest.raises(UserError, match=r"weight 1\.5"):
        Distillation(teacher, weight=1.5)
    with pytest.raises(UserError, match=r"none\.ckpt"):
        fit(still_bert, reviews, Distillation("none.ckpt"))
    for file in reviews.iterdir():
        file.write_text(file.read_text().replace("pos", "good"))
    data = TextClassificationDataModule(str(reviews), still_bert)
    model = BertClassifier(still_bert, class_names=data.class_names)
    with pytest.raises(UserError, match=r"its classes are neg, pos, those of the data good, neg|neg, good"):
        Trainer(max_epochs=1, callbacks=[Distillation(teacher)], **QUIET).fit(model, data)


OTHERS = [
    "a funny story",
    "a dull story",
    "great , clever fun",
    "stupid , boring fun",
    "best of the year",
    "worst of all",
]
"""Texts that are no rows of the data."""


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A file of 31 texts without a label; one more is a validation row in other letters, and one is blank."""
    path = tmp_path / "texts.txt"
    path.write_text(
        "\n".join(
            [
                *(f"{text} {'and ' * number}" for number in range(5) for text in OTHERS),
                "lovely film",
                GOOD[0].upper(),
                "",
            ]
        )
    )
    return str(path)


@pytest.fixture
def table(tmp_path: Path, texts: str) -> str:
    """A table of probabilities for all of them, as `predict` writes it."""
    rows = [*dict.fromkeys([*GOOD, *BAD, *Path(texts).read_text().split("\n")])]
    path = tmp_path / "probs.jsonl"
    lines = [{"text": text, "prob_neg": 1 - (n % 7) / 8, "prob_pos": (n % 7) / 8} for n, text in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_texts_without_a_label_are_taught_by_the_teacher_alone(
    recipe: str, texts: str, table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = Distillation.on_before_backward

    def watched(self, trainer, pl_module, loss):
        own = F.cross_entropy(self._logits.detach(), self._batch["labels"], ignore_index=-100, reduction="none")
        original(self, trainer, pl_module, loss)
        seen.append((self._batch, self._logits.detach(), own, loss.detach().clone()))

    monkeypatch.setattr(Distillation, "on_before_backward", watched)
    taught = [f"--distillation.teacher={table}", f"--distillation.unlabelled={texts}"]
    cli = main(["fit", "--config", recipe, "--trainer.max_epochs=1", *taught])
    said = capsys.readouterr().out
    assert "40 training (31 more without a label), 20 validation, 30 test rows" in said
    assert "1 texts of --distillation.unlabelled are validation or test rows, and are left out" in said
    provenance = json.loads((cli.run_dir / "provenance.json").read_text())
    assert provenance["data"]["rows"] == {"train": 40, "val": 20, "test": 30, "train_unlabelled": 31}
    assert len(seen) == 9 == cli.trainer.global_step  # steps of 71 rows, in batches of 8
    probs = {row["text"]: row["prob_pos"] for row in map(json.loads, Path(table).read_text().splitlines())}
    found = Counter()
    for batch, logits, own, loss in seen:
        sentences, _ = cli.datamodule.texts("train", batch["index"])
        pos = torch.tensor([probs[text] for text in sentences])
        softened = F.softmax(torch.stack([1 - pos, pos], dim=1).clamp_min(1e-12).log() / 2, dim=-1)
        kl = 4 * (softened * (softened.clamp_min(1e-12).log() - F.log_softmax(logits / 2, dim=-1))).sum(dim=-1)
        expected = torch.where(batch["labels"] < 0, kl, 0.1 * own + 0.9 * kl).mean()
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
        found.update(text for text, label in zip(sentences, batch["labels"].tolist(), strict=True) if label < 0)
    assert set(found.values()) == {1}
    assert len(found) == 31


def test_the_rest_are_the_training_rows_that_are_not_drawn(recipe: str, table: str, reviews: Path) -> None:
    lines = Path(table).read_text().splitlines()[10:40]
    rows = [f'"{json.loads(line)["text"]}",pos' for line in lines]
    (reviews / "train.csv").write_text("\n".join(["text,label", *rows[:20], *(row[:-3] + "neg" for row in rows[20:])]))
    words = [f"--distillation.teacher={table}", "--distillation.unlabelled=rest", "--data.train_rows=12"]
    cli = main(["fit", "--config", recipe, "--trainer.max_epochs=1", "--test_after_fit=false", *words])
    drawn, rest = cli.datamodule.splits["train"], cli.datamodule.splits["train_unlabelled"]
    assert sorted([*drawn["index"][:], *rest["index"][:]]) == list(range(30))
    assert set(rest["label"][:]) == {-100}


def test_a_run_with_unlabelled_texts_is_the_same_after_a_stop_and_on_two_ranks(
    still_bert: str, reviews: Path, rows: Rows, texts: str, table: str, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path / "still.yaml", still_bert, reviews)
    words = ["fit", "--config", recipe, "--trainer.log_every_n_steps=1", f"--distillation.teacher={table}"]
    words += [f"--distillation.unlabelled={texts}", "--test_after_fit=false", "--export_after_fit=false"]
    whole = main([*words, "--name=whole"])
    expected = list(rows)
    rows.clear()
    SIGNALS[4] = signal.SIGTERM
    with pytest.raises(SystemExit):
        main([*words, "--name=stopped"])
    main(["fit", "--ckpt_path=runs/stopped/checkpoints/last.ckpt"])
    assert rows == expected
    equal_runs(whole.run_dir, Path("runs/stopped"))
    steps = ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2"]  # of the same 8 rows; the last has 7
    run([*words, "--name=ranks", *steps], tmp_path / "log", ranks=2)
    one, two = (events(Path("runs", name)) for name in ("whole", "ranks"))
    assert one["train/acc"] == two["train/acc"]
    for tag in ("val/loss", "val/acc"):
        assert one[tag] == pytest.approx(two[tag], abs=1e-6), tag


def test_a_table_teaches_as_the_model_that_wrote_it(teacher: str, still_bert: str, reviews: Path) -> None:
    words = [f"--ckpt_path={teacher}", f"--data.dataset={reviews}", "--data.predict_split=train"]
    main(["predict", *words, "--output=probs.csv"])
    by_model, by_table = (fit(still_bert, reviews, Distillation(source)) for source in (teacher, "probs.csv"))
    for name, value in by_model.items():
        torch.testing.assert_close(value, by_table[name], atol=1e-3, rtol=1e-3)  # six decimals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("prob_pos"), "no column 'prob_pos'"),
        (lambda row: row.pop("text"), "no column 'text'"),
        (lambda row: row.update(prob_pos=0.9), "row 1: 1.0, 0.9 are no probabilities of neg, pos"),
        (lambda row: row.update(prob_pos="1,0"), "row 1: 1.0, 1,0 are no probabilities"),
        (lambda row: row.update(prob_neg=1.5, prob_pos=-0.5), "are no probabilities"),
        (lambda row: row.update(prob_neg=float("nan")), "are no probabilities"),
        (lambda row: row.update(prob_neg="nan"), "are no probabilities"),
        (lambda row: row.update(text=row["text"].upper()), "it lacks 4 of the 40 training texts, such as 'a warm and"),
    ],
)
def test_a_table_that_cannot_teach_is_refused(
    recipe: str, table: str, refused: Refused, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    lines = [json.loads(line) for line in Path(table).read_text().splitlines()]
    change(lines[0])
    Path(table).write_text("\n".join(map(json.dumps, lines)))
    assert said in refused(["fit", "--config", recipe, f"--distillation.teacher={table}"])


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (None, [], "there is no such file"),
        ("\n \n", [], "no row has a text"),
        ("Great fun!\nNO FUN\n", [], "all of its 2 texts are validation or test rows"),
        ("fine\n", ["--distillation.teacher=null"], "name the teacher with --distillation.teacher"),
        ("fine\n", ["--distillation.unlabelled=rest"], "--data.train_rows leaves no row out"),
        ("fine\n", ["--distillation.unlabelled=-"], "there is no such file"),
        ("fine\n", ["--distillation.unlabelled=tiny.yaml"], "its name must end in one of .txt, .csv"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(
    recipe: str, table: str, refused: Refused, content: str | None, more: list[str], said: str
) -> None:
    if content is not None:
        Path("own.txt").write_text(content)
    words = ["fit", "--config", recipe, f"--distillation.teacher={table}", "--distillation.unlabelled=own.txt", *more]
    assert said in refused(words)
