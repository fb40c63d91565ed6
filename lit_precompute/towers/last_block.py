"""What of a transformer's last block is computed at all."""

FIRST_TOKEN = ("cls", "tok", "0")  # the families' names of pooling by the first token


def wanted_tokens(block: int, depth: int, pool: str) -> int | None:
    """How many of the first tokens of a block's result anything looks at; None: all.

    Where the first token alone is pooled, the last block has keys and values to compute of the others and nothing else:
    a sixth of its products. The vectors are the same.

    Args:
        block: number of the block, from 0.
        depth: how many there are.
        pool: how the tower pools.
    """
    return 1 if pool in FIRST_TOKEN and block == depth - 1 else None
