"""The engine: a process of its own that owns the devices and turns text into chunks."""
