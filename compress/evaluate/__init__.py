"""The one way to measure: candidates -> processes -> rows.

candidate.py    what takes part
images.py       what it is scored and timed on
options.py      how, and with which goal
harness.py      devices and batch sizes -> rows on disk
evaluation.py   the candidates of one device, from the first build to the last score
processes.py    an artifact in a process of its own: started, scored, timed
measurement.py  what is known of a candidate so far
scores.py       classes of images that outlive an interruption
elimination.py  who can no longer win
figures.py      what was measured -> a row
details.py      what one row of a variant carries for all
selection.py    which file is kept, and why
"""

from compress.evaluate.candidate import Candidate, describe_variant, share_cost
from compress.evaluate.harness import evaluate
from compress.evaluate.images import Images, take_noise, take_test_images
from compress.evaluate.options import Goal, Options

__all__ = [
    "Candidate",
    "Goal",
    "Images",
    "Options",
    "describe_variant",
    "evaluate",
    "share_cost",
    "take_noise",
    "take_test_images",
]
