from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from lit_bert.inference.card import read_card_metrics, render_model_card
from lit_bert.modeling.checkpoint import Checkpoint

METRICS = {"rows": 1066, "acc": 0.8, "acc_low": 0.75, "acc_high": 0.85, "f1": 0.79, "ece": 0.1234}


def render(metrics: dict[str, Any], calibration: Any = None, optimizer: Any = None, **data: Any) -> str:
    model = {"pretrained": "packaged", "learning_rate": 5e-5, "weight_decay": 0.0, "optimizer": optimizer}
    data = {"dataset": "packaged", "batch_size": 32, "max_length": None, **data}
    checkpoint = Checkpoint(Path("a.ckpt"), {}, model, {}, data_hyper_parameters=data, epoch=2, global_step=801)
    return render_model_card(checkpoint, ["neg", "pos"], metrics, calibration)


def test_a_card_says_what_the_model_is_how_it_was_made_and_how_good_it_is() -> None:
    content = render({"val": METRICS, "test": METRICS}, {"temperature": 1.5, "before": 0.1, "after": 0.05})
    lines = content.splitlines()
    assert "# all-MiniLM-L6-v2, fine-tuned for neg, pos" in lines
    assert "Classifies the sentiment of a sentence as one of: neg, pos." in lines
    table = lines.index("| split | rows | accuracy | 95 % interval | macro F1 | calibration error |")
    assert lines[table + 1 : table + 4] == [
        "| --- | --- | --- | --- | --- | --- |",
        "| val | 1,066 | 0.8000 | 0.7500 to 0.8500 | 0.7900 | 0.1234 |",
        "| test | 1,066 | 0.8000 | 0.7500 to 0.8500 | 0.7900 | 0.1234 |",
    ]
    assert lines[table + 5].startswith("Its logits are divided by 1.500: temperature scaling, ")
    recipe = "- learning_rate: 5e-05\n- weight_decay: 0.0\n- batch_size: 32\n- epochs: 3, optimizer steps: 801"
    assert f"\n\n{recipe}\n\n" in content
    assert "Rotten Tomatoes: single sentences of English film reviews" in content
    assert ", with AdamW and a learning rate that falls linearly to 0. " in content
    assert "lit_bert " in lines[-1]
    assert content.endswith("\n")
    assert "\n\n\n" not in content
    data = ModelCard(content).data
    assert (data.license, data.datasets) == ("apache-2.0", ["cornell-movie-review-data/rotten_tomatoes"])
    assert [result.metric_value for result in data.eval_results] == [0.8, 0.79, 0.8, 0.79]


def test_of_other_data_a_card_says_less() -> None:
    content = render({}, optimizer={"class_path": "torch.optim.SGD"}, dataset={"train": "a.csv"})
    assert "AdamW" not in content
    assert "- optimizer: {'class_path': 'torch.optim.SGD'}\n" in content
    assert "Classifies a sentence as one of: neg, pos." in content
    assert "It was not evaluated.\n\n## How it was made" in content
    assert "on local files" in content
    assert "sentiment" not in content
    assert "Rotten Tomatoes" not in content
    assert ModelCard(content).data.datasets is None


def test_the_recipe_tells_the_options_of_the_model_that_are_not_as_always() -> None:
    lines = render({}, pooling="mean", frozen_layers=0).splitlines()
    assert "- pooling: mean" in lines
    assert not [line for line in lines if line.startswith(("- frozen_layers", "- class_weights"))]


def test_a_card_that_was_edited_has_no_figures(tmp_path: Path) -> None:
    assert read_card_metrics(tmp_path) == {}
    for text in ("", "---\nmodel-index: [\n---\n", "---\nmodel-index: 3\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert read_card_metrics(tmp_path) == {}
