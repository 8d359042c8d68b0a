"""How the course's code compares with what a learner would pick instead: ratios measured in one run."""
