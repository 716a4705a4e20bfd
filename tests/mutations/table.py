"""The table of mutations, room by room."""

from tests.mutations import losses, measuring, sampling, scores, training

ROOMS = (sampling, scores, losses, training, measuring)
MUTATIONS = tuple(mutation for room in ROOMS for mutation in room.MUTATIONS)
