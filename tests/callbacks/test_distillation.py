from pathlib import Path

import pytest
import torch
from conftest import QUIET
from lightning.pytorch import Trainer
from torch.nn import functional as F

from lit_bert import BertClassifier, Predictor, TextClassificationDataModule
from lit_bert.callbacks.distillation import Distillation
from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.evaluation.hparams import FIRST, hyperparameters


@pytest.fixture
def teacher(trained: Path) -> str:
    return str(next(trained.glob("checkpoints/epoch*.ckpt")))


def fit(start: str, reviews: Path, distillation: Distillation | None) -> dict[str, torch.Tensor]:
    data = TextClassificationDataModule(str(reviews), start, batch_size=16)
    model = BertClassifier(start, learning_rate=0.003)
    callbacks = [distillation] if distillation else []
    Trainer(max_epochs=2, limit_val_batches=0, callbacks=callbacks, **QUIET).fit(model, data)
    return {name: value.clone() for name, value in model.state_dict().items()}


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
        for name, value in fit(still_bert, reviews, distillation).items():
            assert torch.equal(value, plain[name]), name
    taught = fit(still_bert, reviews, Distillation(teacher))
    assert not torch.equal(taught["model.classifier.weight"], plain["model.classifier.weight"])


def test_fit_asks_a_teacher_once(
    recipe: str, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
