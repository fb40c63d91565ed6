"""The contract between the two stages: file formats, identities and digests."""
