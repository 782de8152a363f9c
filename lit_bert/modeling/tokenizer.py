"""Tokenizers of `transformers`: of an encoder, of a checkpoint, or of a folder of their own."""

import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lit_bert.errors import UserError, reason
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.encoder import find_encoder, load_config, make_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

BERT_POSITIONS = 512
"""Tokens taken at most where a tokenizer stands without an encoder, and knows no limit of its own."""

_OFFSET_POSITIONS = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""Types of encoders that count positions from after the padding token's number, and so take fewer tokens."""


def find_tokenizer(source: str | Checkpoint) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of an encoder, named as for `find_encoder`, or of a checkpoint or its file.

    It neither truncates nor pads on its own, and its `model_max_length` is how many tokens the encoder takes at most.
    """
    if isinstance(source, str) and not (
        source.endswith(".ckpt") or (zipfile.is_zipfile(source) and not source.endswith(".bin"))
    ):
        return load_tokenizer(find_encoder(source, for_tokenizer=True), f"--model.pretrained {source}")
    checkpoint = Checkpoint.read(source) if isinstance(source, str) else source
    where = f"--ckpt_path {checkpoint.path}"
    if not checkpoint.tokenizer_files:
        raise UserError(f"{where}: it was trained on another data module, without a tokenizer; set --data.tokenizer")
    with tempfile.TemporaryDirectory() as folder:  # transformers reads nothing but files
        for name, text in checkpoint.tokenizer_files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return load_tokenizer(Path(folder), where, make_config(checkpoint.encoder_config, where))


def load_tokenizer(folder: Path, source: str, config: "PreTrainedConfig | None" = None) -> "PreTrainedTokenizerBase":
    """Return a folder's tokenizer as `find_tokenizer` does; `config` is the encoder's, if it is not in the folder."""
    from transformers import AutoTokenizer

    if config is None and (folder / "config.json").is_file():
        config = load_config(folder, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    except Exception as error:
        problem = reason(error)
        if find_spec("sentencepiece") is None and any(folder.glob("*.model")):
            problem = "its vocabulary needs sentencepiece: pip install '.[sentencepiece]' -c constraints.txt"
        raise UserError(f"{source}: its tokenizer cannot be used: {problem}") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{source}: its tokenizer has no padding token; set one with save_pretrained")
    tokenizer.padding_side = tokenizer.truncation_side = "right"  # also in the pipeline of an exported folder
    if config is None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, BERT_POSITIONS)
        return tokenizer
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))  # ids may have gaps
    if tokens > config.vocab_size:
        sizes = f"its tokenizer has {tokens} tokens, its encoder {config.vocab_size}"
        raise UserError(f"{source}: {sizes}; they do not belong together")
    positions = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    if config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer
