"""What keeps the course true: installation, runs of the notebooks, hygiene, launch links, translations."""
