"""BERT encoders: Hugging Face folders (MiniLM and its multilingual kin too), and the reference's own layout."""

import dataclasses

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.bert_checkpoint import read_bert, to_folder
from trainer.text_towers.bert_reference import MARK, REFERENCE, read_reference
from trainer.text_towers.checkpoint import bfloat16_names, exported_head, take_head
from trainer.text_towers.family import Family, Order, Start


def start(order: Order) -> Start:
    """The tower of a Hugging Face folder, or of the reference's file (LiT releases, converted BERT).

    Raises:
        ValueError: it is another kind of checkpoint, or its tensors do not fit: all are named at once.
    """
    checkpoint, config = order.published(), order.config
    if checkpoint.folder is None:
        return _start_reference(order)
    base = BertConfig(dropout=config.text_dropout, compute_dtype=config.compute_dtype)
    bert, params = read_bert(checkpoint, base, "bert", config.text_pool)
    tokenizer = order.tokenizer()
    # The tokenizer's pad token counts, not config.json's: in multilingual MiniLM they differ.
    assert checkpoint.folder is not None
    module = Bert(dataclasses.replace(bert, pad_id=tokenizer.pad_id))
    return Start(module, params, tokenizer, exported_head(checkpoint.folder, bert.width))


def _start_reference(order: Order) -> Start:
    checkpoint, config = order.published(), order.config
    tensors = checkpoint.text_tensors()
    if not any(name.startswith(MARK) for name in tensors):
        raise ValueError(
            f"{checkpoint.source}: a BERT weight file must be in the reference's layout ({MARK}…), found "
            f"{', '.join(sorted(tensors)[:3])}, … For weights of Hugging Face give their folder."
        )
    layout = {"reference": True, "bfloat16": bfloat16_names(tensors)}
    head = take_head(tensors)
    base = dataclasses.replace(
        REFERENCE,
        pool=config.text_pool or REFERENCE.pool,
        dropout=config.text_dropout,
        compute_dtype=config.compute_dtype,
    )
    bert, params = read_reference(tensors, base, config.text_heads, checkpoint.source)
    published = head if head or checkpoint.is_two_tower else None
    return Start(Bert(bert), params, order.tokenizer(), published, layout)


FAMILY = Family(start, lambda backbone: Bert(BertConfig(**backbone)), to_folder=to_folder)
