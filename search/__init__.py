"""The search for a Pareto front: study file, space, sampler, trial, and the command line."""
