"""What is wrong with a node's observations, in words."""

from __future__ import annotations

from collections.abc import Callable

from diffusion_ros.control.observation import InterpolatingAssembler
from diffusion_ros.ros import topics
from diffusion_ros.ros.frame_source import FrameRules, FrameSource


class InputReasons:
    """Looks at what a FrameSource knows of its inputs."""

    def __init__(self, source: FrameSource, rules: FrameRules, age: Callable[[str], float | None]) -> None:
        """rules: the source's own. age: seconds since a message came, by the source's topics; None before the first."""
        self._source, self._rules, self._age = source, rules, age

    def reasons(self) -> list[str]:
        """Why they are not used, a line each."""
        source, rules = self._source, self._rules
        reasons = list(source.faults.values())
        newest_ns = max(source.stamps.values(), default=0)
        for topic in source.topics:
            if topic in source.faults:
                continue
            age, name = self._age(topic), source.name(topic)
            if topic in source.distrusted:
                reasons.append(f"{name}: good again, but not for {rules.good_frames} pictures yet")
            elif age is None:
                reasons.append(f"{name}: {self._nothing(topic)}")
            elif rules.realtime and age > rules.max_input_age:
                reasons.append(f"{name}: silent for {age:.2f} s")
            elif rules.max_frozen > 0 and (newest_ns - source.stamps[topic]) / 1e9 > rules.max_frozen:
                lag = (newest_ns - source.stamps[topic]) / 1e9
                reasons.append(f"{name}: its stamps stand still, {lag:.2f} s behind the other inputs")
        reasons += source.frozen_reasons
        if not reasons and (slow := source.too_slow()):
            reasons.append(slow)
        return reasons

    def _nothing(self, topic: str) -> str:
        """What to say of an input of which nothing has come."""
        if topic in self._source.sources:
            return self._source.sources[topic].missing()
        simulator = self._source.simulator
        assert simulator is not None
        return simulator.fingers.nothing() if topic == topics.JOINT_STATES else "nothing received"

    def slow(self) -> str:
        """'' or which input comes less often than in training; what is interpolated may."""
        rates, sources = self._source.rates, self._source.sources
        watched = (topic for topic in self._source.topics if topic not in sources or sources[topic].is_picture)
        return next(filter(None, (rates[topic].slow() for topic in watched)), "")

    def apart(self) -> str:
        """Why all inputs come, and do not make a frame."""
        assembler, sources = self._source.assembler, self._source.sources.values()
        if isinstance(assembler, InterpolatingAssembler):
            if (found := assembler.missing()) is None:
                return "the inputs have not come together"
            missing, behind_ns = found
            source = next(source for source in sources if missing in source.inputs)
            reference = next(source for source in sources if assembler.reference in source.inputs)
            side = "behind" if behind_ns >= 0 else "ahead of"
            apart = f"{source.name} is {abs(behind_ns) / 1e9:.2g} s {side} {reference.name}"
            limit = assembler.tolerance_ns / 1e9
            rule = f"at most {limit:g} s expected (sync_tolerance)" if source.is_picture else "its latency, or a hole?"
            return f"{apart}, {rule}"
        name, limit = self._source.name, self._rules.sync_tolerance
        newest = {topic: self._source.stamps[topic] for topic in self._source.topics}
        first, last = min(newest, key=newest.__getitem__), max(newest, key=newest.__getitem__)
        apart = f"{name(first)} is {(newest[last] - newest[first]) / 1e9:.2g} s behind {name(last)}"
        return f"the stamps of the inputs differ, {apart}, at most {limit:g} s expected (sync_tolerance)"
