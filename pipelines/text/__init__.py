"""`lit-embed-text`: texts through a tuned text tower, at scale."""
