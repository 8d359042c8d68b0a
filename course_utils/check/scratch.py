"""Checks of unit1/02_diffusion_models_from_scratch."""
