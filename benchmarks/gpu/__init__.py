"""Checks and speeds of the GPU paths, in the order of what they tell, within a given time."""
