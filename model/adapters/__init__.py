"""Foreign parameter names end here: published files in, this project's modules out."""
