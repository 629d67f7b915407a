"""What tests and benchmarks share: a browser and a server, published files at a size for tests, devices on a simulated clock."""

from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
"""Where golden fixtures lie if nobody says so."""
