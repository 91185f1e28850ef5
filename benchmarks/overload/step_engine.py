"""A token-streaming engine in virtual time: continuous batching at the cost of a few operations a request.

The same cost model as `serve_app.engine.simulated.model` (a test compares the two), but steps that repeat are taken
together: while no prompt is computed and nobody joins or leaves, each step lasts as long as the one before.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from benchmarks.overload.event_loop import EventLoop, Timer
from benchmarks.overload.jobs import Job, JobListener
from serve_app.core.engine_status import EngineLoad


@dataclass(frozen=True)
class EngineProfile:
    """Costs and bounds of an engine. The defaults resemble an 8B model on one mid-size GPU."""

    max_running: int = 32
    kv_capacity_tokens: int = 64_000
    prefill_s_per_token: float = 0.0001
    prefill_chunk_tokens: int = 512
    decode_base_s: float = 0.020
    decode_s_per_sequence: float = 0.00025

    def full_step_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Mean seconds between a stream's tokens when the batch is full, for mean lengths, prefills included."""
        decode_s = self.decode_base_s + self.decode_s_per_sequence * self.max_running
        return decode_s + self.max_running * self.prefill_s_per_token * prompt_tokens / output_tokens

    @property
    def busy_prefill_s_per_token(self) -> float:
        """Seconds per prompt token while a full batch decodes beside it."""
        decode_s = self.decode_base_s + self.decode_s_per_sequence * self.max_running
        return self.prefill_s_per_token + decode_s / self.prefill_chunk_tokens

    def requests_per_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Requests of these mean lengths that a replica completes in a second when its batch is always full."""
        return self.max_running / (output_tokens * self.full_step_s(prompt_tokens, output_tokens))


class StepEngine:
    """First come, first served; the youngest sequence is preempted when the KV cache is full."""

    def __init__(self, profile: EngineProfile, loop: EventLoop, listener: JobListener) -> None:
        self.profile = profile
        self.waiting: deque[Job] = deque()
        self.decoding: dict[Job, None] = {}
        self.computed = 0.0
        self.steps = 0
        self.generated = 0
        self.preemptions = 0
        self._loop = loop
        self._listener = listener
        self._prefilling: deque[Job] = deque()
        self._prefilled: list[Job] = []
        self._warming: dict[Job, Timer] = {}
        self._ends: list[tuple[int, int, Job]] = []
        self._kv_tokens = 0
        self._arrivals = 0
        self._tick = 0
        self._factor = 1.0
        self._stalled_until = 0.0
        self._cold_calls = 0
        self._cold_s = 0.0
        self._burst: tuple[float, float, int] | None = None
        """Steps under way: their start, the seconds of each and their number."""
        self._timer: Timer | None = None

    # --- faults

    def slow_down(self, factor: float) -> None:
        """Steps take `factor` times as long from the next one on; 1 is health."""
        self._factor = factor
        self._cut_burst()

    def stall(self, for_s: float) -> None:
        """Begin no step for `for_s` seconds."""
        self._stalled_until = self._loop.now + for_s
        self._cut_burst()

    def be_cold(self, calls: int, extra_s: float) -> None:
        """Each of the next `calls` calls takes `extra_s` seconds longer to its first token."""
        self._cold_calls, self._cold_s = calls, extra_s

    @property
    def cold_calls(self) -> int:
        """Calls that will still be cold."""
        return self._cold_calls

    # --- the backend's side

    def submit(self, job: Job) -> None:
        """See `SimulatedBackend.submit`."""
        self._arrivals += 1
        job.arrival = self._arrivals
        if self._cold_calls:
            self._cold_calls -= 1
            self._warming[job] = self._loop.after(self._cold_s, self._warmed, job)
        else:
            self._enqueue(job)

    def abort(self, job: Job) -> None:
        """See `SimulatedBackend.abort`."""
        if (timer := self._warming.pop(job, None)) is not None:
            timer.cancel()
        elif job in self.decoding:
            self._cut_burst()
            self._settle(job)
            del self.decoding[job]
            self._kv_tokens -= job.length
        elif job in self._prefilling:
            self._prefilling.remove(job)
            self._kv_tokens -= job.length
        elif job in self._prefilled:
            self._prefilled.remove(job)
            self._kv_tokens -= job.length
        elif job in self.waiting:
            self.waiting.remove(job)

    def flush(self) -> None:
        """See `SimulatedBackend.flush`."""
        done = self._done()
        for job in list(self.decoding):
            self._report(job, self._tick + done - job.joined)

    def kill(self) -> None:
        """See `SimulatedBackend.kill`."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._warming.values():
            timer.cancel()
        for queue in (self.waiting, self.decoding, self._prefilling, self._prefilled, self._warming, self._ends):
            queue.clear()
        self._kv_tokens = 0
        self._burst = None

    def load(self) -> EngineLoad:
        """See `SimulatedBackend.load`."""
        done = self._done()
        kv_tokens = self._kv_tokens + done * len(self.decoding)
        return EngineLoad(
            self.running + len(self._warming), len(self.waiting), kv_tokens / self.profile.kv_capacity_tokens,
            self.steps + done, self.generated + done * len(self.decoding),
        )  # fmt: skip

    @property
    def running(self) -> int:
        """Sequences in the batch, those whose prompt is being computed included."""
        return len(self._prefilling) + len(self._prefilled) + len(self.decoding)

    @property
    def held(self) -> int:
        """Jobs that the engine has, running or not."""
        return self.running + len(self.waiting) + len(self._warming)

    @property
    def prefill_backlog(self) -> int:
        """Prompt tokens that are still to be computed."""
        return sum(job.to_prefill for job in self._prefilling) + sum(job.length for job in self.waiting)

    def remaining(self) -> list[tuple[int, int]]:
        """Tokens still to generate and tokens in the KV cache of each job, for who may know the future."""
        done = self._done()
        known = []
        for job in self.decoding:
            generated = self._tick + done - job.joined
            known.append((job.output_tokens - generated, job.prompt_tokens + generated))
        for queue in (self._prefilling, self._prefilled, self.waiting, self._warming):
            known += [(job.output_tokens - job.generated, job.length) for job in queue]
        return known

    # --- steps

    def _warmed(self, job: Job) -> None:
        del self._warming[job]
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        self.waiting.append(job)
        if self._burst is None:
            self._begin()
        else:
            self._cut_burst()

    def _done(self) -> int:
        """Steps of the present burst that have ended; the last one ends with the burst."""
        if self._burst is None or self._burst[2] == 1:
            return 0
        started, step_s, number = self._burst
        return min(int((self._loop.now - started) / step_s + 1e-9), number - 1)

    def _cut_burst(self) -> None:
        """Let the present burst end with its present step; the steps before it are accounted for."""
        if self._burst is None or self._burst[2] == 1:
            return
        started, step_s, _ = self._burst
        done = self._done()
        assert self._timer is not None
        self._timer.cancel()
        self._count(done)
        started += done * step_s
        self._burst = (started, step_s, 1)
        self._timer = self._loop.at(started + step_s, self._end)

    def _count(self, steps: int) -> None:
        """Account for `steps` steps of the present batch."""
        tokens = steps * len(self.decoding)
        self._tick += steps
        self.generated += tokens
        self.computed += tokens
        self._kv_tokens += tokens
        self.steps += steps if tokens else 0

    def _begin(self) -> None:
        now = self._loop.now
        if now < self._stalled_until:
            self._burst = (now, self._stalled_until - now, 1)
            self._timer = self._loop.at(self._stalled_until, self._resume)
            return
        profile = self.profile
        preempted = self._make_room()
        if not preempted:
            self._admit()
        prefill_tokens = self._prefill()
        if not self.running:
            self._burst = None
            return
        decoding = len(self.decoding)
        step_s = (
            profile.decode_base_s
            + profile.decode_s_per_sequence * decoding
            + profile.prefill_s_per_token * prefill_tokens
        ) * self._factor
        number = 1
        if not prefill_tokens and not preempted:
            number = self._ends[0][0] - self._tick
            number = max(1, min(number, (profile.kv_capacity_tokens - self._kv_tokens) // decoding))
        self._burst = (now, step_s, number)
        self._timer = self._loop.at(now + number * step_s, self._end)

    def _resume(self) -> None:
        self._burst = None
        self._begin()

    def _end(self) -> None:
        assert self._burst is not None
        number = self._burst[2]
        first_tokens = self._prefilled
        for job in first_tokens:
            job.joined = self._tick - job.generated
            self.decoding[job] = None
            heapq.heappush(self._ends, (job.joined + job.output_tokens, job.arrival, job))
        self._prefilled = []
        self._count(number)
        self._burst = (self._loop.now, 0.0, 1)  # listeners may submit meanwhile: they must not begin a step
        for job in first_tokens:
            if job in self.decoding:
                self._report(job, self._tick - job.joined)
        while self._ends and self._ends[0][0] <= self._tick:
            end, _, job = heapq.heappop(self._ends)
            if job not in self.decoding or job.joined + job.output_tokens != end:
                continue
            self._settle(job)
            del self.decoding[job]
            self._kv_tokens -= job.length
            self._report(job, job.output_tokens)
            self._listener.finished(job)
        while self._ends and not self._current(self._ends[0]):
            heapq.heappop(self._ends)
        self._begin()

    def _current(self, entry: tuple[int, int, Job]) -> bool:
        end, _, job = entry
        return job in self.decoding and job.joined + job.output_tokens == end

    def _settle(self, job: Job) -> None:
        job.generated = self._tick - job.joined

    def _report(self, job: Job, generated: int) -> None:
        if generated > job.reported:
            first, job.reported = job.reported, generated
            self._listener.tokens(job, first, generated - first)

    def _make_room(self) -> bool:
        preempted = False
        while self._kv_tokens + self.running > self.profile.kv_capacity_tokens and self.running > 1:
            youngest = max((*self._prefilling, *self.decoding), key=lambda job: job.arrival)
            if youngest in self.decoding:
                self._report(youngest, self._tick - youngest.joined)
                youngest.generated = self._tick - youngest.joined
                del self.decoding[youngest]
            else:
                self._prefilling.remove(youngest)
            self._kv_tokens -= youngest.length
            self.waiting.appendleft(youngest)
            self.preemptions += 1
            preempted = True
        if preempted:
            self._ends = [entry for entry in self._ends if self._current(entry)]
            heapq.heapify(self._ends)
        return preempted

    def _admit(self) -> None:
        profile = self.profile
        while self.waiting and self.running < profile.max_running:
            job = self.waiting[0]
            if self.running and self._kv_tokens + job.length + self.running + 1 > profile.kv_capacity_tokens:
                return
            self.waiting.popleft()
            self._kv_tokens += job.length
            job.to_prefill = job.length
            self._prefilling.append(job)

    def _prefill(self) -> int:
        budget = self.profile.prefill_chunk_tokens
        while self._prefilling and budget:
            job = self._prefilling[0]
            part = min(budget, job.to_prefill)
            job.to_prefill -= part
            budget -= part
            if not job.to_prefill:
                self._prefilled.append(self._prefilling.popleft())
        computed = self.profile.prefill_chunk_tokens - budget
        self.computed += computed
        return computed
