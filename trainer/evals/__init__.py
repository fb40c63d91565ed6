"""Evaluations of a tuned text tower from cached image embeddings: pure functions, one file each."""
