"""The wire: WHEP over HTTP, and the events of the data channel."""
