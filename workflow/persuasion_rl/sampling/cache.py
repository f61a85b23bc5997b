"""Keys and values of the tokens before, kept with room for those to come."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

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
