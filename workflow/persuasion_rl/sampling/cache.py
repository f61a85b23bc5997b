"""Keys and values of the tokens before, kept with room for those to come."""

from copy import copy

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 128
"""Tokens that fit behind those that are kept, before everything is copied."""


class RoomyLayer(DynamicLayer):
    """A layer of a cache whose steps copy their own tokens only; transformers' copies all of them in each step."""

    _rooms = (None, None)

    def update(self, key_states, value_states, *args, **kwargs):
        """Append keys and values (rows, heads, tokens, width), and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        key_room, value_room = self._rooms
        self.keys, key_room = _appended(self.keys, key_states, key_room)
        self.values, value_room = _appended(self.values, value_states, value_room)
        self._rooms = key_room, value_room
        return self.keys, self.values


def _appended(
    states: torch.Tensor, new: torch.Tensor, room: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """States with new ones behind them, and the room that both are in; a larger one if they are in none, or it is full."""
    held = states.shape[-2] if states.numel() else 0
    end = held + new.shape[-2]
    if room is None or room.data_ptr() != states.data_ptr() or room.shape[-2] < end:
        rows, heads, _, width = new.shape
        room = new.new_empty(rows, heads, end + ROOM, width)
        if held:
            room[:, :, :held] = states
    room[:, :, held:end] = new
    return room[:, :, :end], room


def roomy_cache(config) -> DynamicCache:
    """An empty cache for a model of this configuration; layers with a sliding window are transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def can_join(cache: DynamicCache) -> bool:
    """Whether `joined` knows all of a cache's layers."""
    return all(type(layer) in (RoomyLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def joined(parts: list[tuple[DynamicCache, torch.Tensor]], columns: int) -> DynamicCache:
    """A cache of chosen rows of several: each row's last token in the last column, zeros before its first.

    Args:
        parts: caches, each with the indices of its rows; they are used up, so that no layer is there twice for long.
        columns: the tokens of the longest row.
    """
    cache = copy(parts[0][0])
    cache.layers = [
        _joined_layer([(part.layers[number], rows) for part, rows in parts], columns)
        for number in range(len(cache.layers))
    ]
    return cache


def _joined_layer(parts: list[tuple[DynamicLayer, torch.Tensor]], columns: int) -> DynamicLayer:
    """A layer of a joined cache; the parts lose their keys and values."""
    first = parts[0][0]
    sliding = isinstance(first, DynamicSlidingWindowLayer)
    layer = DynamicSlidingWindowLayer(first.sliding_window) if sliding else RoomyLayer()
    filled = [(part, rows) for part, rows in parts if part.get_seq_length()]
    if not filled or not columns:
        return layer
    layer.lazy_initialization(filled[0][0].keys, filled[0][0].values)
    if sliding:
        layer.cumulative_length = columns
        columns = min(columns, first.sliding_window - 1)
    rooms = []
    for name in ("keys", "values"):
        _, heads, _, width = getattr(filled[0][0], name).shape
        room = layer.keys.new_zeros(
            sum(len(rows) for _, rows in parts), heads, columns + (0 if sliding else ROOM), width
        )
        end = 0
        for part, rows in parts:
            begin, end = end, end + len(rows)
            if part.get_seq_length():
                states = getattr(part, name)[:, :, -columns:]
                room[begin:end, :, columns - states.shape[2] : columns] = states[rows]
        setattr(layer, name, room[:, :, :columns])
        rooms.append(room)
    if not sliding:
        layer._rooms = tuple(rooms)
    for part, _ in filled:
        part.keys = part.values = None
    return layer
