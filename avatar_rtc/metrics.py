"""What repeats is counted here, for Prometheus. Seconds and bytes; one registry a server, so that tests do not share counts."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_SHORT_S = (0.02, 0.04, 0.08, 0.12, 0.2, 0.3, 0.4, 0.52, 0.75, 1.0, 2.0)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = {"namespace": "avatar_rtc", "registry": self.registry}
        self.sessions = Gauge("sessions", "Sessions by state.", ["state"], **made)
        self.seats = Gauge("seats", "Seats by state.", ["state"], **made)
        self.admission = Counter("admission", "Calls that asked for a seat.", ["result", "reason"], **made)
        self.session_end = Counter("session_end", "Why sessions ended.", ["reason"], **made)
        self.join_s = Histogram("join_seconds", "From the offer to a stage.", ["stage"], buckets=_LATENCY_S, **made)
        self.prompt_to_first_frame_s = Histogram(
            "prompt_to_first_frame_seconds", "From an accepted reply to its first picture.", buckets=_LATENCY_S, **made
        )
        self.prompt_to_first_audio_s = Histogram(
            "prompt_to_first_audio_seconds", "From an accepted reply to its first voiced moment.", buckets=_LATENCY_S, **made
        )
        self.interrupt_s = Histogram(
            "interrupt_seconds", "From an interruption to the end of its pictures.", buckets=_SHORT_S, **made
        )
        self.rtf = Histogram(
            "rtf",
            "Waiting time for a block over its duration.",
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0),
            **made,
        )
        self.buffer_s = Histogram("buffer_seconds", "Media left when a block is asked for.", ["kind"], buckets=_SHORT_S, **made)
        self.underruns = Counter("underruns", "Times that the buffer ran dry.", ["kind"], **made)
        self.frames = Counter("frames", "Pictures.", ["kind", "result"], **made)
        self.replies = Counter("replies", "Replies by how they ended.", ["status"], **made)
        self.video_bitrate_bps = Gauge("video_bitrate_bps", "Rate of the encoders, summed.", **made)
        self.rtt_s = Histogram(
            "rtt_seconds", "Round trips.", buckets=(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), **made
        )
        self.fraction_lost = Histogram(
            "fraction_lost", "Share of packets lost, as receivers report.", buckets=(0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5), **made
        )
        self.messages = Counter("datachannel_messages", "Events.", ["dir", "type", "result"], **made)
        self.engine_failures = Counter("engine_failures", "Streams lost because the engine died.", **made)

    def render(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
