"""XLM-R: BERT with positions counted from the first token that is no pad."""

import dataclasses

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.bert_checkpoint import read_bert, to_folder
from trainer.text_towers.checkpoint import exported_head
from trainer.text_towers.family import Family, Order, Start

DEFAULTS = BertConfig(position_rule="roberta", pad_id=1)


def start(order: Order) -> Start:
    """The tower of a Hugging Face folder.

    Raises:
        ValueError: it is another kind of checkpoint, its tensors do not fit (all are named at once), or its tokenizer
            pads with another id than its positions are counted by.
    """
    checkpoint, config = order.published(), order.config
    base = dataclasses.replace(DEFAULTS, dropout=config.text_dropout, compute_dtype=config.compute_dtype)
    bert, params = read_bert(checkpoint, base, "xlm-roberta", config.text_pool)
    tokenizer = order.tokenizer()
    if tokenizer.pad_id != bert.pad_id:
        raise ValueError(
            f"{checkpoint.source}: the tokenizer must pad with config.json's pad_token_id {bert.pad_id}, by which "
            f"positions are counted, found {tokenizer.pad_id}."
        )
    assert checkpoint.folder is not None
    return Start(Bert(bert), params, tokenizer, exported_head(checkpoint.folder, bert.width))


FAMILY = Family(start, lambda backbone: Bert(BertConfig(**backbone)), to_folder=to_folder)
