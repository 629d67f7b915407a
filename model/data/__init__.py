"""Everything that pocket learns from: sentences, synthetic voices, drawn faces, captions."""
