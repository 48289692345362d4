"""Products with a sparse matrix of equally long rows: M V, M^T G and the entries' gradient G V^T.

M is given by ``columns`` and ``entries``, both (R, K), K entries in every row. The CPU's versions
read and write each entry once; on other devices the same products are made of sorts and bags.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import scipy.sparse
import torch
from torch import Tensor

_SUM = 0  # mode of the embedding bag


def matrix_product(columns: Tensor, entries: Tensor, table: Tensor) -> Tensor:
    """M V: row r is the sum of ``entries[r, k] * table[columns[r, k]]``.

    Args:
        columns: (R, K) int32, contiguous.
        entries: (R, K), contiguous, of the table's dtype.
        table: (C, d), contiguous.

    Returns:
        (R, d).
    """
    return torch.ops.aten._embedding_bag_forward_only(
        table,
        columns.view(-1),
        _row_starts(columns),
        False,
        _SUM,
        False,
        entries.view(-1),
        include_last_offset=True,
    )[0]


def entry_gradient(columns: Tensor, entries: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """G V^T at the entries of M: ``grad[r] . table[columns[r, k]]``.

    On the CPU it overwrites ``entries``: the matrix is not needed any more, and as large as all
    else.

    Args:
        columns, entries, table: as of :func:`matrix_product`.
        grad: (R, d), contiguous.

    Returns:
        (R, K).
    """
    if columns.device.type == "cpu":
        _announce_sparse_csr()
        matrix = _csr(columns, entries, table.shape[0])
        torch.sparse.sampled_addmm(matrix, grad, table.t(), beta=0.0, out=matrix)
        return entries
    bags = torch.arange(columns.shape[0], dtype=torch.int32, device=columns.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad,
        table,
        columns.view(-1),
        _row_starts(columns)[:-1],
        bags.repeat_interleave(columns.shape[1]),
        _SUM,
    ).view(columns.shape)


def transposed_product(columns: Tensor, entries: Tensor, grad: Tensor, size: int) -> Tensor:
    """M^T G: row c is the sum of ``entries[r, k] * grad[r]`` over all entries in column c.

    Sums are taken in a fixed order: the result is the same in every run.

    Args:
        columns, entries: as of :func:`matrix_product`.
        grad: (R, d), contiguous.
        size: C, columns of M.

    Returns:
        (C, d).
    """
    if columns.device.type == "cpu":
        matrix = scipy.sparse.csr_array(
            (entries.view(-1).numpy(), columns.view(-1).numpy(), _row_starts(columns).numpy()),
            shape=(columns.shape[0], size),
        )
        # A transposed CSR is a CSC without any copy, and its product one pass over the entries.
        return torch.from_numpy(matrix.T @ grad.numpy())
    return sorted_transposed_product(columns, entries, grad, size)


def sorted_transposed_product(columns: Tensor, entries: Tensor, grad: Tensor, size: int) -> Tensor:
    """:func:`transposed_product` by sorting the entries by column: any device, no atomics."""
    by_column, order = columns.view(-1).sort(stable=True)
    bounds = torch.arange(size + 1, dtype=torch.int32, device=columns.device)
    starts = torch.searchsorted(by_column, bounds, out_int32=True)
    return torch.ops.aten._embedding_bag_forward_only(
        grad,
        (order // columns.shape[1]).to(torch.int32),
        starts,
        False,
        _SUM,
        False,
        entries.view(-1)[order],
        include_last_offset=True,
    )[0]


def in_threads(function: Callable[[int], Tensor], count: int) -> list[Tensor]:
    """``function(0), function(1), ...`` on as many threads as PyTorch uses.

    For functions that spend their time in SciPy, which lets go of the interpreter's lock.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        return [function(i) for i in range(count)]
    return list(_pool(threads, os.getpid()).map(function, range(count)))


@lru_cache(maxsize=4)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Kept between calls; a forked process needs its own (threads do not survive a fork)."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"deform_attn_{pid}")


def _row_starts(columns: Tensor) -> Tensor:
    rows, length = columns.shape
    return torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=columns.device)


def _csr(columns: Tensor, entries: Tensor, size: int) -> Tensor:
    return torch.sparse_csr_tensor(
        _row_starts(columns),
        columns.view(-1),
        entries.view(-1),
        (columns.shape[0], size),
        check_invariants=False,
    )


@lru_cache(maxsize=1)
def _announce_sparse_csr() -> None:
    """PyTorch warns once a process that CSR tensors are in beta state; nobody needs to hear it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _csr(torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1), 1)
