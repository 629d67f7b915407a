"""From chunks to RTP: one buffer, one clock, two tracks."""
