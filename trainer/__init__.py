"""Stage 2: tune a text tower against cached image embeddings; no pixel is ever seen here."""
