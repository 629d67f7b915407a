"""The network: a causal dual-stream diffusion transformer with its VAEs, text side, training and judges."""

import sys

# Importing OpenVINO, on a machine with a home directory, tells its makers so over the internet; without this package it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
