"""Any interleaving keeps the queue's promises, and its order is that of a model that knows only the rules."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serve_app.core.request import Priority
from serve_app.resilience.admission_queue import AdmissionConfig, AdmissionQueue, Bands, WhenFull
from serve_app.resilience.fair_band import BandLimits, Offered
from serve_app.resilience.waiting import Waiting

TENANTS = ("a", "b", "c")
WEIGHTS = {"b": 2.0, "c": 0.5}
REQUESTS, TOKENS, IN_LINE = 6, 100, 3
PROMOTION_S, SHARE = 10.0, 0.25
BANDS = list(Priority)

any_number = st.integers(0, 1_000_000)
# Sums and quotients of these are exact, so that model and queue see the same ties.
sizes = st.sampled_from([4, 8, 12, 20, 40, 104])


def weight(tenant: str) -> float:
    return WEIGHTS.get(tenant, 1.0)


def make_queue(when_full: WhenFull, requests: int = REQUESTS, tokens: int = TOKENS) -> AdmissionQueue:
    limits = BandLimits(requests=requests, tokens=tokens)
    config = AdmissionConfig(
        bands=Bands(interactive=limits, default=limits, batch=limits),
        tenant_weights=WEIGHTS,
        idle_credit_tokens=0,
        starvation_promotion_s=PROMOTION_S,
        starvation_share=SHARE,
        when_full=when_full,
        in_line_limit=IN_LINE,
    )
    return AdmissionQueue(config)


@dataclass
class BandModel:
    """The rules of one band, with lists and loops."""

    queued: list[Waiting] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TENANTS, 0.0))
    turns: dict[str, int] = field(default_factory=dict)
    last_left: str | None = None
    credit: float = 0.0

    def active(self) -> set[str]:
        return {waiting.tenant for waiting in self.queued}

    def add(self, waiting: Waiting, turn: int) -> None:
        active = self.active()
        if waiting.tenant not in active:
            if active:
                lift = min(self.counters[tenant] for tenant in active)
            else:
                lift = self.counters[self.last_left] if self.last_left is not None else 0.0
            self.counters[waiting.tenant] = max(self.counters[waiting.tenant], lift)
            self.turns[waiting.tenant] = turn
        self.queued.append(waiting)

    def drop(self, waiting: Waiting) -> None:
        self.queued.remove(waiting)
        if waiting.tenant not in self.active():
            self.last_left = waiting.tenant

    def charge(self, waiting: Waiting, turn: int) -> None:
        self.counters[waiting.tenant] += waiting.cost / weight(waiting.tenant)
        self.turns[waiting.tenant] = turn

    def head(self) -> Waiting | None:
        if not self.queued:
            return None
        tenant = min(self.active(), key=lambda name: (self.counters[name], self.turns[name]))
        return next(waiting for waiting in self.queued if waiting.tenant == tenant)

    def share(self, tenant: str) -> float:
        held = [waiting for waiting in self.queued if waiting.tenant == tenant]
        return max(len(held) / REQUESTS, sum(waiting.prompt_tokens for waiting in held) / TOKENS)


class AdmissionMachine(RuleBasedStateMachine):
    """Drives the queue with whatever may happen; the model tells who has to be served next."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = make_queue(WhenFull.REFUSE)
        self.now = 0.0
        self.ids = itertools.count(1)
        self.turn = itertools.count()
        self.bands = {priority: BandModel() for priority in BANDS}
        self.returned: list[Waiting] = []
        self.line: dict[Priority, list[Waiting]] = {priority: [] for priority in BANDS}
        self.running: list[Waiting] = []

    @initialize(when_full=st.sampled_from(list(WhenFull)))
    def choose(self, when_full):
        self.queue = make_queue(when_full)

    def everyone(self) -> list[Waiting]:
        queued = [waiting for band in self.bands.values() for waiting in band.queued]
        return [*self.returned, *queued, *(waiting for line in self.line.values() for waiting in line)]

    def follow_line(self, priority: Priority) -> None:
        """Whoever is no longer in line has moved up: in the order in which the line lets them, which is checked."""
        line, band = self.line[priority], self.bands[priority]
        moved = [waiting for waiting in line if not self.queue.waits_in_line(waiting.stream_id)]
        while moved:
            tenants = {waiting.tenant: waiting for waiting in reversed(line)}
            first = min(tenants.values(), key=lambda w: (band.share(w.tenant) / weight(w.tenant), w.offered_at))
            assert first in moved, "somebody overtook in line"
            moved.remove(first)
            line.remove(first)
            band.add(first, next(self.turn))

    def expected_head(self) -> int | None:
        if self.returned:
            return self.returned[0].stream_id
        served = [priority for priority in BANDS if self.bands[priority].queued]
        if not served:
            return None
        best, longest = served[0], self.now
        for priority in served[1:]:
            band = self.bands[priority]
            since = band.queued[0].offered_at
            patience = PROMOTION_S * (BANDS.index(priority) - BANDS.index(served[0]))
            if band.credit >= 0 and self.now - since >= patience and since < longest:
                best, longest = priority, since
        head = self.bands[best].head()
        assert head is not None
        return head.stream_id

    @rule(
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from([*BANDS, Priority.DEFAULT, Priority.DEFAULT]),
        prompt=sizes,
        output=sizes,
        streams=st.integers(1, 4),
    )
    def offers(self, tenant, priority, prompt, output, streams):
        for _ in range(streams):
            self.offer(tenant, priority, prompt, output)

    def offer(self, tenant: str, priority: Priority, prompt: int, output: int) -> None:
        waiting = Waiting(next(self.ids), tenant, priority, prompt, output, self.now)
        self.now += 1 / 1024  # no two are offered at the same time
        band, line = self.bands[priority], self.line[priority]
        before = list(band.queued)
        held = [w for w in self.returned if w.priority is priority]
        requests = len(before) + len(held)
        tokens = sum(w.prompt_tokens for w in [*before, *held])
        fits = (requests < REQUESTS and tokens + prompt <= TOKENS) or requests == 0
        could = self.queue.can_take(priority, prompt)
        result = self.queue.offer(waiting, self.now)

        all_weight = sum(weight(name) for name in band.active() | {tenant})
        mine = [w for w in before if w.tenant == tenant]
        fair = max((len(mine) + 1) / REQUESTS, (sum(w.prompt_tokens for w in mine) + prompt) / TOKENS)
        within = fair <= weight(tenant) / all_weight + 1e-9 or (not mine and 2 * prompt <= TOKENS)
        above = {name for name in band.active() if band.share(name) > weight(name) / all_weight + 1e-9}
        may_lose = {
            name for name in above if len([w for w in before if w.tenant == name]) > 1 or band.share(name) > 0.5
        }
        assert not could or result.offered is not Offered.REFUSED
        if fits and not line:
            assert result.offered is Offered.QUEUED and not result.displaced
        if result.offered is not Offered.QUEUED:
            # What a tenant keeps in any case, its oldest stream, may be more than its share: then there may be no room.
            oldest = {w.tenant: w for w in reversed(before) if w.tenant != tenant}
            kept = [
                max(1 / REQUESTS, w.prompt_tokens / TOKENS) * all_weight / weight(w.tenant) for w in oldest.values()
            ]
            sure = fair <= weight(tenant) / all_weight and not held and all(times <= 1 for times in kept)
            assert not sure or any(w.tenant == tenant for w in line), "its share was refused"
            assert not result.displaced
        lost = [w for w in before if w.stream_id in result.displaced or self.queue.waits_in_line(w.stream_id)]
        if lost:
            assert within and not fits
        for loser in lost:
            newest = [w for w in band.queued if w.tenant == loser.tenant][-1]
            assert loser.tenant in may_lose and loser.tenant != tenant
            assert loser is newest or newest in lost, "not the newest of its tenant lost its place"
        for loser in reversed(lost):
            band.drop(loser)
        if result.offered is Offered.QUEUED:
            band.add(waiting, next(self.turn))
        elif result.offered is Offered.IN_LINE:
            line.append(waiting)
        for stream_id in result.displaced:
            line[:] = [w for w in line if w.stream_id != stream_id]
        line[:0] = [w for w in before if self.queue.waits_in_line(w.stream_id)]
        self.follow_line(priority)

    @rule(streams=st.integers(1, 4))
    def take_heads(self, streams):
        for _ in range(streams):
            self.the_head_is_who_the_rules_name()
            self.take(True, 0)

    @rule(number=any_number)
    def take_any(self, number):
        self.take(False, number)

    def take(self, head: bool, number: int) -> None:
        queued = [w for w in self.everyone() if not self.queue.waits_in_line(w.stream_id)]
        if not queued:
            return
        stream_id = self.queue.head(self.now) if head else queued[number % len(queued)].stream_id
        assert stream_id is not None
        waiting = self.queue.take(stream_id, self.now)
        self.running.append(waiting)
        if waiting in self.returned:
            self.returned.remove(waiting)
        else:
            overtook = False
            for priority in BANDS:
                if BANDS.index(priority) < BANDS.index(waiting.priority):
                    overtook = overtook or bool(self.bands[priority].queued)
                elif BANDS.index(priority) > BANDS.index(waiting.priority):
                    self.bands[priority].credit += waiting.cost if self.bands[priority].credit < 0 else 0.0
            band = self.bands[waiting.priority]
            band.credit -= waiting.cost * (1 - SHARE) / SHARE if overtook else 0.0
            band.charge(waiting, next(self.turn))
            band.drop(waiting)
        self.follow_line(waiting.priority)

    @rule(number=any_number)
    def give_up(self, number):
        everyone = self.everyone()
        if not everyone:
            return
        waiting = everyone[number % len(everyone)]
        assert self.queue.remove(waiting.stream_id)
        assert not self.queue.remove(waiting.stream_id)
        if waiting in self.returned:
            self.returned.remove(waiting)
        elif waiting in self.line[waiting.priority]:
            self.line[waiting.priority].remove(waiting)
        else:
            self.bands[waiting.priority].drop(waiting)
        self.follow_line(waiting.priority)

    @rule(number=any_number)
    def put_back(self, number):
        if self.running:
            waiting = self.running.pop(number % len(self.running))
            self.queue.put_back(waiting, self.now)
            self.returned.append(waiting)

    @rule(number=any_number, tokens=st.sampled_from([-40, -8, 0, 8, 80]))
    def finish(self, number, tokens):
        if self.running:
            waiting = self.running.pop(number % len(self.running))
            self.queue.correct(waiting.tenant, tokens, waiting.priority)
            self.bands[waiting.priority].counters[waiting.tenant] += tokens / weight(waiting.tenant)

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, PROMOTION_S]))
    def time_passes(self, seconds):
        self.now += seconds

    @invariant()
    def the_head_is_who_the_rules_name(self) -> None:
        assert self.queue.head(self.now) == self.expected_head()

    @invariant()
    def nothing_is_lost_or_doubled(self):
        everyone = [waiting.stream_id for waiting in self.everyone()]
        assert sorted(self.queue) == sorted(everyone)
        assert list(self.queue)[: len(self.returned)] == [waiting.stream_id for waiting in self.returned]
        in_line = sum(len(line) for line in self.line.values())
        assert (len(self.queue), self.queue.in_line) == (len(everyone) - in_line, in_line)
        for number, stream_id in enumerate(self.queue):
            position = self.queue.position(stream_id)
            assert position is not None and (position == number or len(everyone) >= 16)

    @invariant()
    def bounds_and_counts_hold(self):
        for priority in BANDS:
            queued = self.bands[priority].queued
            held = [waiting for waiting in self.returned if waiting.priority is priority]
            tokens = sum(waiting.prompt_tokens for waiting in [*queued, *held])
            assert self.queue.by_band()[priority] == (len(queued) + len(held), tokens)
            own_tokens = sum(waiting.prompt_tokens for waiting in queued)
            assert len(queued) <= REQUESTS
            assert own_tokens <= TOKENS or len(queued) == 1
            assert len(self.line[priority]) <= IN_LINE
            assert queued or held or not self.line[priority], "the line waits although the band is empty"

    @invariant()
    def estimates_are_within_what_waits(self):
        for priority in BANDS:
            ahead = self.queue.tokens_ahead(priority)
            upper = [
                w for w in self.everyone() if w in self.returned or BANDS.index(w.priority) <= BANDS.index(priority)
            ]
            assert ahead == sum(waiting.work for waiting in upper)
            assert all(self.queue.tokens_ahead(priority, tenant) <= ahead for tenant in TENANTS)


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def seeded_queue(rng: random.Random, requests: int = 10_000) -> tuple[AdmissionQueue, dict[str, float]]:
    weights = {tenant: rng.choice([0.5, 1.0, 1.0, 3.0]) for tenant in TENANTS}
    limits = BandLimits(requests=requests, tokens=10**9)
    bands = Bands(interactive=limits, default=limits, batch=limits)
    return AdmissionQueue(AdmissionConfig(bands=bands, tenant_weights=weights, idle_credit_tokens=0)), weights


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_service_of_two_backlogged_tenants_differs_by_at_most_the_bound_of_the_paper(seed):
    """Theorem 4.4 of the VTC paper: at most twice the largest weighted charge, whatever the others do."""
    rng = random.Random(seed)
    queue, weights = seeded_queue(rng)
    largest = {tenant: rng.choice([10, 100, 1000]) for tenant in TENANTS}
    bound = 2 * max(3 * largest[tenant] / weights[tenant] for tenant in TENANTS)
    ids = itertools.count()

    def offer(tenant: str) -> None:
        prompt, output = (rng.randint(1, largest[tenant]) for _ in range(2))
        queue.offer(Waiting(next(ids), tenant, Priority.DEFAULT, prompt, output, 0.0), 0.0)

    waiting = dict.fromkeys(TENANTS, 0)
    served = dict.fromkeys(TENANTS, 0.0)
    since: dict[str, dict[str, float]] = {}
    for _ in range(300):
        tenant = rng.choice(TENANTS)
        # Two tenants always have work; the others come and go.
        for name in [*TENANTS[:2], tenant]:
            if waiting[name] == 0:
                since[name] = dict(served)
            while waiting[name] < (2 if name in TENANTS[:2] else 1):
                offer(name)
                waiting[name] += 1
        taken = queue.take(queue.head(0.0) or 0, 0.0)
        waiting[taken.tenant] -= 1
        served[taken.tenant] += taken.cost / weights[taken.tenant]
        busy = [name for name in TENANTS if waiting[name] > 0]
        for one, other in itertools.combinations(busy, 2):
            start = max((since[one], since[other]), key=lambda moment: sum(moment.values()))
            gained = [served[name] - start[name] for name in (one, other)]
            assert abs(gained[0] - gained[1]) <= bound


@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.25, 0.5]))
@settings(max_examples=30, deadline=None)
def test_a_starving_band_gets_its_share_and_no_more(seed, share):
    rng = random.Random(seed)
    limits = BandLimits(requests=10_000, tokens=10**9)
    bands = Bands(interactive=limits, default=limits, batch=limits)
    queue = AdmissionQueue(AdmissionConfig(bands=bands, starvation_promotion_s=10, starvation_share=share))
    ids = itertools.count()
    for priority in (Priority.INTERACTIVE, Priority.BATCH):
        for _ in range(400):
            prompt = rng.randint(1, 100)
            queue.offer(Waiting(next(ids), rng.choice(TENANTS), priority, prompt, rng.randint(1, 100), 0.0), 0.0)
    total = starved = 0.0
    for _ in range(300):
        taken = queue.take(queue.head(20.0) or 0, 20.0)
        total += taken.cost
        starved += taken.cost if taken.priority is Priority.BATCH else 0.0
        assert abs(starved - share * total) <= 300


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_tenant_within_its_share_is_never_refused_whatever_another_one_offers(seed):
    rng = random.Random(seed)
    limits = BandLimits(requests=20, tokens=10_000)
    config = AdmissionConfig(bands=Bands(default=limits), when_full=rng.choice(list(WhenFull)), in_line_limit=5)
    queue = AdmissionQueue(config)
    victims: set[int] = set()
    for number in range(400):
        if rng.random() < 0.1 and len(victims) < 10:
            waiting = Waiting(number, "victim", Priority.DEFAULT, rng.randint(1, 500), 10, float(number))
            victims.add(number)
        else:
            waiting = Waiting(number, "noisy", Priority.DEFAULT, rng.choice([1, 500, 9_000, 20_000]), 10, float(number))
        result = queue.offer(waiting, number)
        assert result.offered is Offered.QUEUED or waiting.tenant == "noisy"
        assert not victims.intersection(result.displaced)
        assert not any(queue.waits_in_line(stream_id) for stream_id in victims)
        head = queue.head(number)
        if head is not None and rng.random() < 0.15:
            queue.take(head, number)
            victims.discard(head)
