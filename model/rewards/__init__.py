"""Models that judge clips while training; never imported by what serves."""
