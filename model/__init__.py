"""The network: a causal dual-stream diffusion transformer with its VAEs, text side, training and judges."""
