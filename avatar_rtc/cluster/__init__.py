"""Many machines as one service: nodes have the seats, front doors lead callers to them, and Ray tells who is there."""
