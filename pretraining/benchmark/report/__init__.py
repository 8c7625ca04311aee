"""From rows of scores to tables with intervals, and pictures."""
