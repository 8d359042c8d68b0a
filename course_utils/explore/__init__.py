"""The widgets: thin controls over pure drawings.

Each comes in three forms: `draw_NAME(...)` returns one `show.Picture` (deterministic; its `alt` says in words
and numbers what it shows), `NAME(...)` puts controls above it, and `NAME_sheet(...)` shows the same drawing
at several settings, for readers of a page without a kernel. `panel` is the frame that all of them share.
"""

from course_utils.explore.classes import class_explorer, class_explorer_sheet, draw_class_explorer
from course_utils.explore.eta import draw_randomness_knob, fan, randomness_knob, randomness_knob_sheet
from course_utils.explore.faces import draw_three_faces, three_faces, three_faces_sheet
from course_utils.explore.film import draw_film_strip, film_strip, film_strip_sheet
from course_utils.explore.frame import panel
from course_utils.explore.guess import be_the_denoiser, be_the_denoiser_sheet, draw_be_the_denoiser
from course_utils.explore.latents import draw_latent_viewer, latent_viewer, latent_viewer_sheet
from course_utils.explore.mix import draw_prompt_mix, prompt_mix, prompt_mix_sheet
from course_utils.explore.noise import SCHEDULES, draw_noise_dial, noise_dial, noise_dial_sheet
from course_utils.explore.overtraining import draw_training_time, training_time, training_time_sheet
from course_utils.explore.prompt import draw_prompt_explorer, prompt_explorer, prompt_explorer_sheet
from course_utils.explore.race import draw_step_budget_race, step_budget_race, step_budget_race_sheet
from course_utils.explore.score import draw_score_map, score_map, score_map_sheet
from course_utils.explore.warp import draw_guidance_warp, guidance_warp, guidance_warp_sheet
from course_utils.explore.words import Look, draw_word_attention, word_attention, word_attention_sheet

__all__ = [
    "SCHEDULES",
    "Look",
    "be_the_denoiser",
    "be_the_denoiser_sheet",
    "class_explorer",
    "class_explorer_sheet",
    "draw_be_the_denoiser",
    "draw_class_explorer",
    "draw_film_strip",
    "draw_guidance_warp",
    "draw_latent_viewer",
    "draw_noise_dial",
    "draw_prompt_explorer",
    "draw_prompt_mix",
    "draw_randomness_knob",
    "draw_score_map",
    "draw_step_budget_race",
    "draw_three_faces",
    "draw_training_time",
    "draw_word_attention",
    "fan",
    "film_strip",
    "film_strip_sheet",
    "guidance_warp",
    "guidance_warp_sheet",
    "latent_viewer",
    "latent_viewer_sheet",
    "noise_dial",
    "noise_dial_sheet",
    "panel",
    "prompt_explorer",
    "prompt_explorer_sheet",
    "prompt_mix",
    "prompt_mix_sheet",
    "randomness_knob",
    "randomness_knob_sheet",
    "score_map",
    "score_map_sheet",
    "step_budget_race",
    "step_budget_race_sheet",
    "three_faces",
    "three_faces_sheet",
    "training_time",
    "training_time_sheet",
    "word_attention",
    "word_attention_sheet",
]
