"""How long streams that can be resumed are kept, and how many: the same bounds at routers and at engines."""

from __future__ import annotations

from collections import OrderedDict

from pydantic import BaseModel, ConfigDict, Field

_MIB = 1024 * 1024


class RetentionConfig(BaseModel):
    """`args.router.retention`: what of resumable streams is kept. The bounds hold for each router replica and for each
    engine replica, and for streams that have ended; running ones are always kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_s: float = Field(default=300.0, ge=0)
    """Seconds for which a stream that has ended can still be read. Longer holds more memory, up to the bounds."""
    max_streams: int = Field(default=4096, ge=0)
    """Ended streams that are kept; the oldest go first."""
    max_bytes: int = Field(default=128 * _MIB, ge=0)
    """Bytes of ended streams that are kept, with their prompts. Packed, an answer takes about 6 bytes a token beside
    its text, so that the default holds about ten million tokens."""
    claim_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds for which a router waits for the others when it looks for a stream that it does not hold itself. Longer
    only where a replica hangs: one that is dead is known at once."""


class KeepBounds:
    """Says which ended streams have to go. Pure: clock readings (`now`, seconds, never running back) are handed in."""

    def __init__(self, config: RetentionConfig) -> None:
        self._config = config
        self._ended: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.bytes = 0
        """Size of all that are kept."""

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, key: str, size: int, now: float) -> None:
        """The stream `key` ended; it has `size` bytes. The keys of running streams are unknown here."""
        self.remove(key)
        self._ended[key] = (now, size)
        self.bytes += size

    def remove(self, key: str) -> None:
        """It is kept no longer, for another reason."""
        _, size = self._ended.pop(key, (0.0, 0))
        self.bytes -= size

    def expire(self, now: float) -> list[str]:
        """Forget what is too old or too much, and return its keys, the oldest first."""
        config = self._config
        gone: list[str] = []
        while self._ended:
            key, (ended_at, _) = next(iter(self._ended.items()))
            within = len(self._ended) <= config.max_streams and self.bytes <= config.max_bytes
            if within and now - ended_at < config.keep_s:
                break
            self.remove(key)
            gone.append(key)
        return gone
