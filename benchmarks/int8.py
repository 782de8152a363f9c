"""How fast is int8 on a CPU? The ONNX file of an exported folder beside the pipeline of transformers, and PyTorch.

    python -m lit_bert.export --ckpt_path best --to my_model --onnx --int8
    python benchmarks/int8.py --model my_model

All predict the packaged test split, one after the other in each round, so that whatever else slows the machine slows
all of them alike; a ratio is the median of the rounds' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

BATCH = 32  # rows of a batch of the pipeline, and of onnxruntime


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an exported folder with an ONNX file")
    parser.add_argument("--rounds", type=int, default=5, help="how often each predicts all rows (default: 5)")
    options = parser.parse_args()

    from lit_bert.data import dataset
    from lit_bert.run import hardware, openmp

    hardware.keep_freed_memory()
    openmp.limit_threads()
    rows = dataset.load(dataset.fetch("packaged")[0])["test"]
    texts, names = list(rows["text"]), rows.features["label"].names
    labels = [names[label] for label in rows["label"]]
    contestants = _contestants(options.model)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    accuracy, agreement = {}, {}
    reference: list[str] = []
    with openmp.LoadMonitor():
        for number in range(options.rounds + 1):
            for name, predict in contestants.items():
                begun = time.perf_counter()
                preds = predict(texts)
                if number:  # the first round warms up
                    rates[name].append(len(texts) / (time.perf_counter() - begun))
                reference = reference or preds  # the pipeline's, which comes first
                accuracy[name], agreement[name] = _share_equal(preds, labels), _share_equal(preds, reference)
    print(f"{hardware.processor_name()}; {len(texts):,} test rows, {options.rounds} rounds")
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates["pipeline"], strict=True)]
        spread = f"({min(values):.0f} to {max(values):.0f})"
        rate = f"{statistics.median(values):6.0f} {spread:15} sentences/s, {statistics.median(ratios):.2f} x pipeline"
        print(f"{name:14} {rate}, accuracy {accuracy[name]:.4f}, same class {agreement[name]:.1%}")


def _share_equal(left: list[str], right: list[str]) -> float:
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)


def _contestants(model: str) -> dict[str, Callable[[list[str]], list[str]]]:
    """Return functions that predict the labels of texts, by name."""
    from transformers import pipeline

    from lit_bert import Predictor
    from lit_bert.run.hardware import has_fast_bf16

    classify: Any = pipeline("text-classification", model, device="cpu", batch_size=BATCH)
    predictors = {"torch float32": Predictor(model, "cpu", "32-true")}
    if has_fast_bf16("cpu"):
        predictors["torch bfloat16"] = Predictor(model, "cpu", "bf16-mixed")

    def labels_by(predictor: Predictor) -> Callable[[list[str]], list[str]]:
        return lambda texts: [answer.label for answer in predictor(texts)]

    named = {name: labels_by(predictor) for name, predictor in predictors.items()}
    return {"pipeline": lambda texts: [row["label"] for row in classify(texts)], **named, "onnx int8": _int8(model)}


def _int8(model: str) -> Callable[[list[str]], list[str]]:
    """Return a function that predicts the labels of texts by onnxruntime, those of about equal length together."""
    from onnxruntime import InferenceSession
    from transformers import AutoConfig, AutoTokenizer

    session = InferenceSession(f"{model}/model_int8.onnx", providers=["CPUExecutionProvider"])
    tokenizer, names = AutoTokenizer.from_pretrained(model), AutoConfig.from_pretrained(model).id2label

    def predict(texts: list[str]) -> list[str]:
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        labels = [""] * len(texts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            inputs = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="np")
            [logits] = session.run(["logits"], {node.name: inputs[node.name] for node in session.get_inputs()})
            for row, pred in zip(rows, logits.argmax(axis=-1), strict=True):
                labels[row] = names[int(pred)]
        return labels

    return predict


if __name__ == "__main__":
    main()
