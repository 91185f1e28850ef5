"""The simulated accelerator: continuous batching with costs in virtual seconds, without clock or event loop.

The caller alternates `begin_step(now)`, which says how long the step takes, and `finish_step(now)` when that time has
passed, which emits the events of all sequences at once. Between the two, requests may be submitted and aborted.
"""

from __future__ import annotations

from collections import deque

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import EngineFailed
from serve_app.core.interfaces import Emit
from serve_app.core.request import Continuation, Sampling
from serve_app.engine.simulated.config import RequestFault, SimulatedEngineConfig
from serve_app.engine.simulated.faults import FaultPlan
from serve_app.engine.simulated.language import TokenSource, max_rank, read
from serve_app.engine.simulated.prefix_cache import PrefixCache
from serve_app.engine.simulated.sequence import Job, Sequence
from serve_app.engine.simulated.vocabulary import OPEN_BYTES


class SimulatedModel:
    """Schedules sequences as vLLM does: first come, first served; the youngest is preempted when the KV cache is full.

    A preempted sequence waits at the head of the queue and computes its tokens again; its output goes on unchanged.
    """

    def __init__(self, config: SimulatedEngineConfig) -> None:
        self._config = config
        self.faults = FaultPlan(config.faults)
        self.crash: str | None = None
        """Why the engine is dead, once it is."""
        self._started_at = 0.0
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._prefilled: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._stalled: list[Sequence] = []
        self._ended: list[Job] = []
        self._prefixes = PrefixCache(config.prefix_cache_tokens, config.prefix_block_tokens)
        self._kv_tokens = 0
        self._accepted = 0
        self._completed = 0
        self._arrivals = 0
        self._steps = 0
        self._generated = 0

    def start(self, now: float) -> None:
        """Count ages, for cold start and timed faults, from `now` on."""
        self._started_at = now

    def submit(
        self,
        ids: list[int],
        sampling: Sampling,
        max_tokens: int,
        emit: Emit,
        continuation: Continuation | None = None,
    ) -> Job:
        """Queue a request of prompt `ids`, whose events go to `emit`. Runs from the next `begin_step` on.

        A `continuation` whose output had ended leaves nothing to run: its job comes back with no choice unfinished.
        Raises `NotContinuable`.
        """
        config = self._config
        open_bytes = OPEN_BYTES.get(ids[-1], b"")
        if continuation is not None:
            ids = [*ids, *continuation.output_token_ids]
        state, blocks = read(ids, config.prefix_block_tokens)
        seed = config.seed if sampling.seed is None else sampling.seed
        highest_rank = max_rank(sampling)
        job = Job(emit)
        for choice in range(sampling.n):
            source = TokenSource(state, ids[-1], seed, choice, highest_rank, config.mean_output_tokens)
            sequence = Sequence(job, choice, len(ids), blocks, source, open_bytes, sampling, max_tokens)
            if continuation is not None:
                sequence.resume(continuation)
            self._arrivals += 1
            sequence.arrival = self._arrivals
            job.sequences.append(sequence)
        self._accepted += 1
        job.sequences[0].fault = self.faults.for_request(self._accepted)
        running = [sequence for sequence in job.sequences if sequence.finished is None]
        job.unfinished = len(running)
        self._waiting.extend(running)
        return job

    def abort(self, job: Job) -> None:
        """Drop all sequences of `job` now; nothing more is emitted for it."""
        for queue in (self._waiting, self._prefilling, self._prefilled, self._decoding, self._stalled):
            for sequence in job.sequences:
                if sequence in queue:
                    queue.remove(sequence)
                    if queue is not self._waiting:
                        self._kv_tokens -= sequence.length

    def take_ended(self) -> list[Job]:
        """Jobs that have ended or failed since the last call; aborted ones are not among them."""
        ended, self._ended = self._ended, []
        return ended

    def load(self) -> EngineLoad:
        """Present load, in sequences."""
        return EngineLoad(
            self._running(), len(self._waiting), self._kv_tokens / self._config.kv_capacity_tokens, self._steps,
            self._generated,
        )  # fmt: skip

    def check(self, now: float) -> None:
        """Raise the crash that has struck by `now`, if one has."""
        if self.crash is None and self.faults.crashed(now - self._started_at):
            self.die("the simulated engine crashed as scheduled")
        if self.crash is not None:
            raise EngineFailed(self.crash)

    def die(self, reason: str) -> None:
        """End the engine for good: every job fails with `EngineFailed`."""
        self.crash = reason
        for queue in (self._waiting, self._prefilling, self._prefilled, self._decoding, self._stalled):
            for sequence in queue:
                self._fail(sequence.job, reason)
            queue.clear()
        self._kv_tokens = 0

    def begin_step(self, now: float) -> float | None:
        """Form the next batch. Returns the seconds until `finish_step` is due; None when there is nothing to do."""
        age_s = now - self._started_at
        if self.crash is None and self.faults.crashed(age_s):
            self.die("the simulated engine crashed as scheduled")
        if self._stalled:
            self._decoding.extend(s for s in self._stalled if s.stalled_until <= now)
            self._stalled = [s for s in self._stalled if s.stalled_until > now]
        if not self._make_room():
            self._admit()
        prefill_tokens = self._prefill()
        if not self._running():
            return None
        config = self._config
        if config.step_s is not None:
            duration_s = config.step_s
        else:
            duration_s = (
                config.decode_base_s
                + config.decode_s_per_sequence * len(self._decoding)
                + config.prefill_s_per_token * prefill_tokens
            )
        if self._completed < config.cold_requests or age_s < config.cold_s:
            duration_s *= config.cold_factor
        return self.faults.step_duration(age_s, duration_s)

    def finish_step(self, now: float) -> None:
        """Emit one token of each sequence in the batch. `now` is the time at which the step was due."""
        if self._prefilled:
            for sequence in self._prefilled:
                self._prefixes.remember(sequence.prefix_blocks)
            self._decoding += self._prefilled
            self._prefilled = []
        remaining: list[Sequence] = []
        failed: list[Job] = []
        emitted = 0
        for sequence in self._decoding:
            job = sequence.job
            if sequence.fault is not None and sequence.generated >= sequence.fault.token:
                self._strike(sequence, sequence.fault, now)
                if self.crash is not None:
                    return
                if job.error is not None:
                    failed.append(job)
                elif sequence.stalled_until > now:
                    self._stalled.append(sequence)
                    continue
            if failed and job.error is not None:
                remaining.append(sequence)
                continue
            job.emit(sequence.advance())
            emitted += 1
            if sequence.finished is None:
                remaining.append(sequence)
                continue
            self._kv_tokens -= sequence.length
            job.emit(sequence.finished)
            job.unfinished -= 1
            if not job.unfinished:
                self._completed += 1
                self._ended.append(job)
        self._decoding = remaining
        self._kv_tokens += emitted
        self._generated += emitted
        self._steps += emitted > 0
        for job in failed:
            self.abort(job)

    def _running(self) -> int:
        return len(self._prefilling) + len(self._prefilled) + len(self._decoding) + len(self._stalled)

    def _make_room(self) -> bool:
        """Preempt until every running sequence can grow by a token. Returns whether that was necessary."""
        preempted = False
        while self._kv_tokens + self._running() > self._config.kv_capacity_tokens and self._running() > 1:
            youngest = max((*self._prefilling, *self._decoding, *self._stalled), key=lambda s: s.arrival)
            for queue in (self._prefilling, self._decoding, self._stalled):
                if youngest in queue:
                    queue.remove(youngest)
            self._kv_tokens -= youngest.length
            self._waiting.appendleft(youngest)
            preempted = True
        return preempted

    def _admit(self) -> None:
        config = self._config
        while self._waiting and self._running() < config.max_running:
            sequence = self._waiting[0]
            growth = self._running() + 1
            if self._running() and self._kv_tokens + sequence.length + growth > config.kv_capacity_tokens:
                return
            self._waiting.popleft()
            self._kv_tokens += sequence.length
            sequence.to_prefill = sequence.length
            if not sequence.generated:
                sequence.cached_tokens = self._prefixes.hit(sequence.prefix_blocks, sequence.prompt_tokens)
                sequence.to_prefill -= sequence.cached_tokens
            self._prefilling.append(sequence)

    def _prefill(self) -> int:
        """Spend the step's prefill budget in arrival order. Returns the tokens computed."""
        budget = self._config.prefill_chunk_tokens
        while self._prefilling and budget:
            sequence = self._prefilling[0]
            part = min(budget, sequence.to_prefill)
            sequence.to_prefill -= part
            budget -= part
            if not sequence.to_prefill:
                self._prefilled.append(self._prefilling.popleft())
        return self._config.prefill_chunk_tokens - budget

    def _strike(self, sequence: Sequence, fault: RequestFault, now: float) -> None:
        sequence.fault = None
        if fault.kind == "stall":
            sequence.stalled_until = now + fault.stall_s
        elif fault.kind == "error":
            self._fail(sequence.job, f"simulated fault after {sequence.generated} tokens")
        else:
            self.die(f"the simulated engine crashed after {sequence.generated} tokens of a request")

    def _fail(self, job: Job, reason: str) -> None:
        if job.error is None and job.unfinished:
            job.error = EngineFailed(reason)
            self._ended.append(job)
