"""The published modules' own numbers, module by module.

    pytest tests/golden --golden DIR

Every pair NAME.json + NAME.safetensors found in DIR is checked; its ``module`` field says by what.
"""
