"""The devices of a run: how they share a batch, and what passes between them."""
