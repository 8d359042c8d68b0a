"""Scripts that train and score what the course ships, and draw its figures: each from nothing, with a seed."""
