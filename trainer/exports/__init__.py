"""What `lit-export` writes: one file a format, and the card that says what it is."""
