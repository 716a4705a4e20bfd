"""The learning side and the run: mask plans, likelihoods, objectives, learner, loop, configuration and command line."""
