"""From a model's output to a decision: the score, its smoothing, the severity and the reasons.

Features, model outputs and scores come in; a severity with the features or bands that explain it, and the bearing fault
that stands out, go out. The files ``decision``, ``scoring`` and ``reasons`` are pure; ``bearing`` computes features
and so shares their buffers.
"""
