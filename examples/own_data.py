"""Train on batches of your own: rows of a Hub data set or a folder, Hugging Face's tokenizer and collator.

python examples/own_data.py
python examples/own_data.py --dataset my_folder --pretrained my_encoder
"""

from datasets import DatasetDict
from jsonargparse import auto_cli
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding

from lit_bert import BertClassifier
from lit_bert.data.dataset import fetch, load
from lit_bert.modeling.encoder import find_encoder


def main(dataset: str = "packaged", pretrained: str = "packaged") -> None:
    """Train for an epoch on a Hub id, a folder of CSV files, or the packaged reviews."""
    seed_everything(1)
    tokenizer = AutoTokenizer.from_pretrained(find_encoder(pretrained))
    rows = DatasetDict(load(fetch(dataset)[0]))  # or datasets.load_dataset(...)
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns=["text", "index"])
    options = {"batch_size": 16, "collate_fn": DataCollatorWithPadding(tokenizer)}
    train = DataLoader(rows["train"], shuffle=True, **options)
    val = DataLoader(rows["validation"], **options)
    model = BertClassifier(pretrained, class_names=rows["train"].features["label"].names, learning_rate=1e-4)
    Trainer(max_epochs=1, gradient_clip_val=1.0, num_sanity_val_steps=0).fit(model, train, val)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
