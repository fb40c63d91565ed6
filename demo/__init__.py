"""The two demos: emoji drawings from packages, and a folder of one's own photographs."""
