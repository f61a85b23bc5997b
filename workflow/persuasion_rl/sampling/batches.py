"""Left-padded batches of unfinished responses, whose rows may leave while others come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from persuasion_rl.sampling.cache import can_join, joined
from persuasion_rl.sampling.request import Request


@dataclass
class Batch:
    """Rows that end in the same column, each a prompt and the tokens of its response so far.

    Attributes:
        requests: one a row.
        ids: (rows, columns) token ids. mask: the same shape, 0 where a row has not begun.
        starts: (rows,), the column in which each response begins.
        seeds: (rows, max_new_tokens) int32, those of the responses' steps.
        cache: keys and values of all columns but the last.
    """

    requests: list[Request]
    ids: torch.Tensor
    mask: torch.Tensor
    starts: torch.Tensor
    seeds: torch.Tensor
    cache: DynamicCache

    @property
    def steps(self) -> torch.Tensor:
        """Tokens of each response: (rows,)."""
        return self.ids.shape[1] - self.starts

    def response(self, row: int) -> list[int]:
        """The token ids of a response so far."""
        return self.ids[row, self.starts[row] :].tolist()

    def has_ended(self, ids: torch.Tensor, end_tokens: Sequence[int]) -> torch.Tensor:
        """Whether each response has a token that ends it: (rows,).

        Args:
            ids: (rows, columns), this batch's with any number of further columns.
        """
        columns = torch.arange(ids.shape[1], device=ids.device)
        ends = torch.isin(ids, torch.tensor(end_tokens, device=ids.device))
        return (ends & (columns >= self.starts[:, None])).any(dim=1)

    @property
    def takes_others(self) -> bool:
        """Whether rows of other prompts can join it."""
        return can_join(self.cache)


def join(parts: list[tuple[Batch, torch.Tensor]]) -> Batch:
    """One batch of rows of several, as narrow as its longest row.

    Args:
        parts: batches, each with the indices of the rows that stay. Their caches are used up. One whose cache cannot be
            joined is the only part, and stays as wide as it is.
    """
    first, rows = parts[0]
    if not first.takes_others:
        first.cache.batch_select_indices(rows)
        columns, cache = first.ids.shape[1], first.cache
    else:
        columns = max(int(batch.mask[rows].sum(dim=1).max()) for batch, rows in parts)
        cache = joined([(batch.cache, rows) for batch, rows in parts], columns - 1)
    return Batch(
        [batch.requests[row] for batch, rows in parts for row in rows.tolist()],
        _stacked([batch.ids[rows] for batch, rows in parts], columns),
        _stacked([batch.mask[rows] for batch, rows in parts], columns),
        torch.cat([batch.starts[rows] + columns - batch.ids.shape[1] for batch, rows in parts]),
        torch.cat([batch.seeds[rows] for batch, rows in parts]),
        cache,
    )


def _stacked(parts: list[torch.Tensor], columns: int) -> torch.Tensor:
    """Rows below each other, (rows, columns): the last columns of each, or zeros before what is narrower."""
    pad = torch.nn.functional.pad
    return torch.cat([pad(part, (columns - part.shape[1], 0)) for part in parts])
