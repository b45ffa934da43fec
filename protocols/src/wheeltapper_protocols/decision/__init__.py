"""From a model's output to a decision: the score, its smoothing, the severity and the reasons.

Features, model outputs and scores come in; a severity goes out, with the features or bands that explain it and the
bearing fault that stands out. All files are pure but ``bearing_detector``: it computes features, which keep one set of
buffers a thread.
"""
