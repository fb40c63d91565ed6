"""Which rows of tokens a backbone takes: of any length up to its table of positions, padding being masked."""


class TokenRows:
    """For the configuration of a backbone; a family of another kind says so by overriding."""

    positions: int

    @property
    def max_length(self) -> int | None:
        """The longest row of tokens; None: any."""
        return self.positions

    @property
    def fixed_length(self) -> bool:
        """Whether all rows must be as long."""
        return False

    @property
    def blind_to_padding(self) -> bool:
        """Whether a row means the same without the padding behind it."""
        return True
