"""The table of mutations, room by room."""

from tests.mutations import ahead, grading, losses, measuring, planning, programs, sampling, scores, training

ROOMS = (sampling, scores, losses, training, ahead, measuring, planning, grading, programs)
MUTATIONS = tuple(mutation for room in ROOMS for mutation in room.MUTATIONS)
