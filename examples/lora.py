"""Train small matrices beside the encoder's own (LoRA, Hu et al. 2021) by peft, and save the merged classifier.

python examples/lora.py
python examples/lora.py --rows 1000
python examples/lora.py --dataset reviews.csv --pretrained google-bert/bert-base-cased --to my_model
"""

from jsonargparse import auto_cli
from lightning.pytorch import Trainer, seed_everything
from peft import LoraConfig, LoraModel
from torch import nn

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.modeling.tokenizer import find_tokenizer


def main(dataset: str = "packaged", pretrained: str = "packaged", rows: int | None = None, to: str = "merged") -> None:
    """Train on a file, a folder, a Hub id or the packaged reviews; `transformers.pipeline` loads the folder `to`."""
    seed_everything(1)
    data = TextClassificationDataModule(dataset, pretrained, train_rows=rows, batch_size=16)
    model = BertClassifier(pretrained, class_names=data.class_names, learning_rate=1e-3, warmup_ratio=0.1)
    encoder = model.model.base_model
    linear = [name for name, part in encoder.named_modules() if isinstance(part, nn.Linear) and "pooler" not in name]
    config = LoraConfig(r=8, lora_alpha=16, target_modules=linear)
    adapters = LoraModel(encoder, config, "default")  # it replaces the encoder's layers in place, and freezes the rest
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "pooler" in name)  # the pooler may begin at random
    trainer = Trainer(max_epochs=3, gradient_clip_val=1.0, num_sanity_val_steps=0)
    trainer.fit(model, data)
    adapters.merge_and_unload()  # in float32, as the weights are
    trainer.test(model, data)  # it prints test/acc, of what is saved
    model.model.save_pretrained(to)
    find_tokenizer(pretrained).save_pretrained(to)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
