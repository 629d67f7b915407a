"""What tests and benchmarks share: a browser, a server, a bad network, a WHIP receiver; stand-ins for files and clocks."""

from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
"""Where golden fixtures lie if nobody says so."""
