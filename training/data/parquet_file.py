"""Parquet files by others: tables and columns of numbers, or why not, in one line of a ValueError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.data.hdf5_file import check_memory


def read_table(path: Path, wanted: Any = None) -> Any:
    """A whole table, or the wanted ones of its columns."""
    try:
        with pq.ParquetFile(path) as file:
            meta = file.metadata
            check_memory(path, sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)))
            return file.read(None if wanted is None else [c for c in file.schema_arrow.names if wanted(c)])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: damaged or cut short ({str(error).splitlines()[0]})") from None


def episode_rows(path: Path, index: int, columns: list[str], cache: dict[tuple[Path, tuple[int, ...]], Any]) -> Any:
    """The rows of one episode, by the column episode_index. cache: what was read last, since files by others have many
    episodes in one group."""
    try:
        with pq.ParquetFile(path) as file:
            meta, names = file.metadata, file.schema_arrow.names
            if missing := [column for column in columns if column not in names]:
                raise ValueError(f"{path}: no column {missing[0]}")
            groups = tuple(i for i in range(meta.num_row_groups) if _may_have(meta.row_group(i), index))
            if (path, groups) not in cache:
                check_memory(path, sum(meta.row_group(i).total_byte_size for i in groups))
                cache.clear()
                cache[path, groups] = file.read_row_groups(list(groups), columns=columns)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: damaged or cut short ({str(error).splitlines()[0]})") from None
    table = cache[path, groups]
    return table.filter(pc.equal(table["episode_index"], index))


def _may_have(group: Any, index: int) -> bool:
    """Whether a group of rows may have some of the episode."""
    for i in range(group.num_columns):
        column = group.column(i)
        found = column.statistics if column.path_in_schema == "episode_index" else None
        if found is not None and found.has_min_max:
            return bool(found.min <= index <= found.max)
    return True


def read_numbers(column: Any, width: int, where: str) -> NDArray[Any]:
    """A column (N), or (N, width) of several numbers a row. where: for errors. ValueError for gaps, other lengths and
    NaN."""
    steps = len(column)
    flat = column.combine_chunks()
    if column.null_count:
        raise ValueError(f"{where}: has gaps")
    if pa.types.is_list(flat.type) or pa.types.is_fixed_size_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = flat.flatten()
        shape: tuple[int, ...] = (steps, width)
    else:
        shape = (steps,) if width == 1 else (steps, width)
    if flat.null_count or len(flat) != steps * width or not _is_number(flat.type):
        raise ValueError(f"{where}: {len(flat)} values {flat.type} in {steps} rows, {width} numbers a row expected")
    values = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: has values that are NaN or infinite")
    return values[:, 0] if shape == (steps, 1) else values


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
