"""The table of mutations, room by room."""

from tests.mutations import ahead, grading, losses, measuring, planning, sampling, scores, training

ROOMS = (sampling, scores, losses, training, ahead, measuring, planning, grading)
MUTATIONS = tuple(mutation for room in ROOMS for mutation in room.MUTATIONS)
