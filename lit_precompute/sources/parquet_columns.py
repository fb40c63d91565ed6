"""Which Parquet columns a source reads, whether their types can serve, and their values with text kept as bytes."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from lit_precompute.config import SourceConfig


def needed_columns(config: SourceConfig) -> list[str]:
    """The columns to read, each once; the image column first."""
    names = [config.image_column, config.id_column, *config.caption_column, config.label_column or ""]
    names += config.metadata_columns
    return list(dict.fromkeys(name for name in names if name))


def check_columns(file: str, schema: pa.Schema, config: SourceConfig) -> None:
    """Raises ValueError naming every column that is missing or of a type that can not serve.

    Args:
        file: bare name, for the message.
        schema: the file's.
        config: what is asked of it.
    """
    flags = [("image" if config.format == "parquet" else "image name", config.image_column)]
    flags += [("id", config.id_column)] if config.id_column else []
    flags += [("caption", name) for name in config.caption_column]
    flags += [("label", config.label_column)] if config.label_column else []
    flags += [("metadata", name) for name in config.metadata_columns]
    problems = []
    for what_for, name in flags:
        flag = _FLAGS.get(what_for, f"--{what_for}-column")
        if schema.names.count(name) != 1:
            what = "found none" if name not in schema.names else "found several"
            problems.append(f"{flag}: must name one column, {what} called {name!r}.")
        elif not _SERVES[what_for](schema.field(name).type):
            problems.append(
                f"{flag}: must be {_WANTED[what_for]}, column {name!r} is {schema.field(name).type}."
            )
    if problems:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        hint = " An empty --id-column makes ids <file>/<row>." if "--id-column" in " ".join(problems) else ""
        raise ValueError(f"{file}: {' '.join(problems)} Its columns: {columns}.{hint}")


def plain_values(column: pa.Array) -> list[Any]:
    """A column as Python values, every text in it as bytes: one bad caption must not cost its neighbours."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    return column.cast(_plain_type(column.type)).to_pylist()


def dense_bytes(column: pa.Array) -> int:
    """Bytes that the texts of its dictionaries would have, were each written out wherever it is named."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return dense_bytes(column.storage)
    if _is_list(kind):
        return dense_bytes(column.flatten())
    if pt.is_struct(kind):
        return sum(map(dense_bytes, column.flatten()))
    if not pt.is_dictionary(kind) or not (_is_text(kind.value_type) or _is_bytes(kind.value_type)):
        return 0
    sizes = pc.binary_length(column.dictionary).cast(pa.int64())
    return pc.sum(sizes.take(column.indices)).as_py() or 0


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with every text type replaced by binary, dictionaries and extension types unpacked."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pt.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if _is_text(kind) or _is_bytes(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([(field.name, _plain_type(field.type)) for field in kind])
    return kind


def _is_text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)


def _serves_image(kind: pa.DataType) -> bool:
    if pt.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _serves_id(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    return pt.is_integer(kind) or pt.is_binary(kind)


def _serves_caption(kind: pa.DataType) -> bool:
    kind = _element(_plain_type(kind))
    if pt.is_struct(kind):
        return any(field.name == "text" and pt.is_binary(field.type) for field in kind)
    return pt.is_binary(kind) or pt.is_null(kind)


def _serves_label(kind: pa.DataType) -> bool:
    kind = _element(_plain_type(kind))
    return pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_binary(kind)


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _is_list(kind) else kind


def _serves_image_name(kind: pa.DataType) -> bool:
    if pt.is_dictionary(kind):
        kind = kind.value_type
    return _is_text(kind)


_FLAGS = {"image name": "--image-column", "metadata": "--metadata-columns"}
_SERVES = {
    "image": _serves_image,
    "image name": _serves_image_name,
    "id": _serves_id,
    "caption": _serves_caption,
    "label": _serves_label,
    "metadata": lambda kind: True,
}
_WANTED = {
    "image": "encoded bytes, or a struct with a field `bytes` (paths and URLs: --format listing)",
    "image name": "text: paths or URLs (encoded images: --format parquet)",
    "id": "text or an integer",
    "caption": "text, a list of texts, or a list of {text, lang, kind}",
    "label": "integers or text",
}
