"""Where a stream goes: to WebRTC viewers, to a WHIP server, into a file. Each reads what a broadcast has encoded."""
