"""The text towers by name: one file per family, one line here for each."""

from trainer.text_towers import bert_family, clip, clippo, modernbert, siglip, t5, xlm_roberta
from trainer.text_towers.family import Family

TEXT_TOWERS: dict[str, Family] = {
    "transformer": siglip.FAMILY,  # from scratch with a vocabulary of its own, or from a checkpoint as siglip
    "bert": bert_family.FAMILY,  # Hugging Face folder, or the reference's layout (LiT, converted BERT)
    "minilm": bert_family.FAMILY,  # the same: all-MiniLM-L6-v2 and its multilingual kin are BERTs
    "xlm-roberta": xlm_roberta.FAMILY,
    "siglip": siglip.PUBLISHED,  # SigLIP, SigLIP 2, LiT's small text towers: Hugging Face folder or the reference's npz
    "clip": clip.FAMILY,
    "t5": t5.FAMILY,  # encoders of T5 and mT5
    "modernbert": modernbert.FAMILY,
    "clippo": clippo.FAMILY,  # a copy of CLIPPO's one tower, over captions drawn as pictures
}
