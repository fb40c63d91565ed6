"""Stage 1 without an engine: images in, embeddings out, as plain functions."""
