"""What the lessons need beyond the core: the explorer and its widgets, running them headless, classroom copies."""
