"""The stages of the published recipe, each a loss."""
