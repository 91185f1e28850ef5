"""Which prompt prefixes a simulated engine still holds, in whole blocks, least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict


class PrefixCache:
    """Blocks are named by the hash of everything up to their end, so a block's presence says that of its prefix."""

    def __init__(self, capacity_tokens: int, block_tokens: int) -> None:
        self._capacity_blocks = capacity_tokens // block_tokens
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def hit(self, blocks: list[int], prompt_tokens: int) -> int:
        """Tokens of the longest cached prefix; at least one of `prompt_tokens` is always left to compute."""
        most = (prompt_tokens - 1) // self._block_tokens
        hits = 0
        for block in blocks[:most]:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            hits += 1
        return hits * self._block_tokens

    def remember(self, blocks: list[int]) -> None:
        """Hold `blocks`, dropping those used least recently."""
        if not self._capacity_blocks:
            return
        for block in blocks:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity_blocks:
            self._blocks.popitem(last=False)
