"""Scripts that train and score what the course ships, and draw its figures: from nothing, with a seed."""
