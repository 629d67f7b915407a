"""What repeats is counted here, for Prometheus. Seconds and bytes; one registry a server, so that tests do not share counts."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_SHORT_S = (0.02, 0.04, 0.08, 0.12, 0.2, 0.3, 0.4, 0.52, 0.75, 1.0, 2.0)
_RTT_S = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_OWN_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.05, 0.1, 0.5)
_RATIO = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0)
_SHARE = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"avatar_rtc_{name}", what, labels, registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"avatar_rtc_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"avatar_rtc_{name}", what, labels, registry=registry, buckets=buckets)

        self.sessions = gauge("sessions", "Sessions by state.", "state")
        self.seats = gauge("seats", "Seats by state.", "state")
        self.waiting = gauge("waiting", "Callers that wait for a seat.")
        self.admission = counter("admission", "Calls that asked for a seat.", "result", "reason")
        self.session_end = counter("session_end", "Why sessions ended.", "reason")
        self.join_s = histogram("join_seconds", "From the offer to a stage.", _LATENCY_S, "stage")
        self.first_audio_s = histogram("prompt_to_first_audio_seconds", "From a reply to its first voiced moment.", _LATENCY_S)
        self.interrupt_s = histogram("interrupt_seconds", "From an interruption to its last buffered picture.", _SHORT_S)
        self.stage_s = gauge("stage_seconds", "Seconds of computing so far.", "stage")
        self.engine_rtf = gauge("engine_rtf", "Seconds of computing a second of media, lately or while warming up.", "percentile")
        self.rtf = histogram("rtf", "Real-time factor: waiting time for a block over its duration.", _RATIO)
        self.buffer_s = histogram("buffer_seconds", "Media left when a chunk arrives.", _SHORT_S)
        self.underruns = counter("underruns", "Times that the buffer ran dry.")
        self.frames = counter("frames", "Pictures.", "result")
        self.replies = counter("replies", "Replies by how they ended.", "status")
        self.keyframes = counter("keyframes", "Keyframes encoded.")
        self.rtt_s = histogram("rtt_seconds", "Round trips, as receivers report.", _RTT_S)
        self.fraction_lost = histogram("fraction_lost", "Share of packets lost, as receivers report.", _SHARE)
        self.messages = counter("datachannel_messages", "Events.", "dir", "type", "result")
        self.engine_failures = counter("engine_failures", "Streams lost because the engine died.")

    def session_counters(self) -> SessionCounters:
        """What one session counts; to be brought up to date now and then."""
        return SessionCounters(self)

    def render(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class DoorMetrics:
    """What a front door of a cluster counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.nodes = Gauge("avatar_rtc_door_nodes", "Nodes that this front door knows.", registry=registry)
        self.retries = Counter("avatar_rtc_door_retries", "Seats that were asked for once more, elsewhere.", registry=registry)
        self.own_s = Histogram(
            "avatar_rtc_door_own_seconds", "Of a join, without the node's part.", registry=registry, buckets=_OWN_S
        )


class SessionCounters:
    """Adds the totals of one session to the counters of the server."""

    def __init__(self, metrics: Metrics) -> None:
        self._counters = {
            "sent": metrics.frames.labels("sent"),
            "dropped": metrics.frames.labels("dropped"),
            "held": metrics.frames.labels("held"),
            "underruns": metrics.underruns,
            "keyframes": metrics.keyframes,
        }
        self._counted = dict.fromkeys(self._counters, 0)

    def bring_to(self, **totals: int) -> None:
        """The session has counted so much since it began."""
        for name, total in totals.items():
            self._counters[name].inc(total - self._counted[name])
            self._counted[name] = total
