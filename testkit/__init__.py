"""What tests and benchmarks share: a browser, a server, a bad network and a WHIP receiver; files and clocks that stand for others."""

from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
"""Where golden fixtures lie if nobody says so."""
