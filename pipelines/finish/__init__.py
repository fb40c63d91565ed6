"""From receipts to a finished store: the steps, and what they count."""
