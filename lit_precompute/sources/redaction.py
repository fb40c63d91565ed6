"""URLs without what must not be kept: user info, query, fragment."""

import re
from typing import Any

_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\s]*)([^?#]*)")
_AT_IS_NO_USER = {"abfs", "abfss", "wasb", "wasbs", "adl"}  # container@account


def redact_text(text: str) -> str:
    """Text that is a URL, cut down to `scheme://host/path`; other text as it is.

    >>> redact_text("https://me:secret@host/a.jpg?token=1")
    'https://host/a.jpg'
    """
    if "://" not in text or (match := _URL.match(text)) is None:
        return text
    scheme, host, path = match.groups()
    if scheme.lower() not in _AT_IS_NO_USER:
        host = host.rpartition("@")[2]
    return f"{scheme}://{host}{path}"


def redact_values(value: Any) -> Any:
    """A JSON value with every URL in it redacted.

    Raises:
        RecursionError: it is nested too deep.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [redact_values(item) for item in value]
    if isinstance(value, dict):
        return {redact_text(key): redact_values(item) for key, item in value.items()}
    return value
