"""A folder that `transformers` loads without this project: `python -m lit_bert.export --ckpt_path X --to DIR`."""

import argparse
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_bert import calibration, card, checkpoints, pretrained, run_folder
from lit_bert.errors import UserError, explained

ONNX = "model.onnx"
TOLERANCE = 1e-4
"""How far a probability of the ONNX file may be from PyTorch's."""


def export(
    path: Path,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
    calibrate: bool = False,
    onnx: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write weights in safetensors, config, tokenizer and model card; all of it, or nothing.

    Args:
        path: A checkpoint.
        folder: Where to; it must not be there yet, or be empty.
        records: What `report.summary` returned of the checkpoint, by the split's title, for the card.
        calibrate: Whether to divide logits by the temperature that suits the checkpoint's validation rows best.
        onnx: Whether to write `model.onnx` as well.
        say: What is called with a line on calibration, and one on ONNX.

    Raises:
        UserError: The checkpoint cannot be read, or the folder not be written; `calibrate` without validation rows;
            `onnx` without its packages, or with another result than PyTorch's.
    """
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"--to {folder}: cannot be read ({error.strerror})") from error
    if taken:
        raise UserError(f"--to {folder}: there is something already; give a folder that is new or empty")
    checkpoint = checkpoints.read(path)
    model = pretrained.restored(checkpoint)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    model.config.architectures = [type(model).__name__]
    calibrated = None
    if calibrate:
        rows = checkpoint["val_rows"]
        if not rows:
            raise UserError(
                f"--calibrate: {path} was not written right after a validation, so it has no rows to fit to; take the "
                "best checkpoint, or that of an epoch's end"
            )
        found = calibration.temperature(rows["probs"], rows["labels"])
        after = calibration.scaled(rows["probs"], found)
        errors = [calibration.error(probs, rows["labels"]) for probs in (rows["probs"], after)]
        calibrated = {"temperature": found, "before": errors[0], "after": errors[1]}
        _divide(model, found)
        say(
            f"calib    temperature {found:.3f}; calibration error on the validation rows {errors[0]:.4f} before, "
            f"{errors[1]:.4f} after"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            building = Path(temporary) / "export"
            with pretrained.quietly():
                model.save_pretrained(building)
            for name, content in checkpoint["encoder"].items():
                if name != "config.json":
                    (building / Path(name).name).write_text(content, encoding="utf-8")
            _limit(building / "tokenizer_config.json", checkpoint)
            (building / "README.md").write_text(card.text(checkpoint, names, records, calibrated), encoding="utf-8")
            for weights in building.glob("*.safetensors"):  # which are its owner's alone, as they come
                shutil.copymode(building / "README.md", weights)
            if onnx:
                _, positions = pretrained.tokenizer(building, str(path))
                worst = _onnx(model, building / ONNX, positions)
                say(f"onnx     largest difference of a probability from PyTorch: {worst:.1e}")
            building.replace(folder)
    except OSError as error:
        raise UserError(f"--to {folder}: cannot be written ({error.strerror or error})") from error


def _limit(config: Path, checkpoint: Mapping[str, Any]) -> None:
    """Let the tokenizer, where it truncates, keep as many tokens as in training."""
    most = checkpoint.get("datamodule_hyper_parameters", {}).get("max_length")
    if most:
        content = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**content, "model_max_length": most}, indent=2), encoding="utf-8")


def _divide(model: Any, temperature: float) -> None:
    """Divide the weights and biases of the last layer, and with them the logits, by a temperature."""
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    if last.out_features != model.config.num_labels:
        raise UserError(f"--calibrate: the last layer of a {model.config.model_type} model is not known here")
    with torch.no_grad():
        last.weight = nn.Parameter(last.weight / temperature)
        if last.bias is not None:
            last.bias = nn.Parameter(last.bias / temperature)


def _onnx(model: Any, path: Path, positions: int) -> float:
    """Write one for sentences of up to `positions` tokens, and return how far its probabilities are from PyTorch's."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("--onnx: install what it needs with pip install '.[onnx]' -c constraints.txt") from error
    ids = torch.randint(0, model.config.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about its own ways
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # or it says that there is no torchvision
        try:
            torch.onnx.export(
                model,
                (),
                str(path),
                kwargs={"input_ids": ids, "attention_mask": mask},
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many things at what it does not know
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"--onnx: a {model.config.model_type} model cannot be exported: {reason}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for part in ((slice(3), slice(7)), (slice(1), slice(4))):
        inputs = {"input_ids": ids[part], "attention_mask": mask[part]}
        [logits] = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
        with torch.inference_mode():
            expected = model(**inputs).logits.softmax(dim=-1)
        worst = max(worst, float((torch.from_numpy(logits).softmax(dim=-1) - expected).abs().max()))
    if worst > TOLERANCE:
        raise UserError(f"--onnx: its probabilities differ by {worst:.1e} from PyTorch's; nothing was written")
    return worst


def recorded(path: Path) -> dict[str, Any]:
    """Return the records of a checkpoint's splits that its run wrote, if they are of this one."""
    run = run_folder.owner(path)
    try:
        content = json.loads((run / run_folder.METRICS).read_text(encoding="utf-8")) if run else {}
        mine = run is not None and content.get("checkpoint") and (run / content["checkpoint"]).samefile(path)
    except (OSError, ValueError):
        return {}
    return {split: content[split] for split in ("val", "test") if split in content} if mine else {}


def main(args: Sequence[str] | None = None) -> None:
    """Read the arguments, and export."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert.export",
        description='Write a checkpoint as a folder that transformers.pipeline("text-classification", DIR) loads.',
    )
    parser.add_argument("--ckpt_path", metavar="X", type=Path, required=True, help="a checkpoint that `fit` wrote")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder, which must be new or empty")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx, too: pip install '.[onnx]'")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="make probabilities fit the validation rows, by a temperature that is folded into the last layer",
    )
    given = parser.parse_args(args)
    with explained():
        export(given.ckpt_path, given.to, recorded(given.ckpt_path), given.calibrate, given.onnx)
    print(f"export   {run_folder.shown(given.to)}")


if __name__ == "__main__":
    main()
