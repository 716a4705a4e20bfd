"""Prompts to finished diffusion trajectories: model families, canvases, samplers, engines."""
