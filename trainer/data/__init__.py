"""From stores to batches: memory-mapped copies of them, and which of their rows a step draws."""
