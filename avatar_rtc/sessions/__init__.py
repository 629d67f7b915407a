"""Sessions: one generated stream each, what is said in it, and who sees it."""
