"""Gates of a release that others trained: what its scores are worth on labelled data.

Scores that an agent computed and the labels of their windows come in; gates with values, limits and confidence go out.
Only numpy is needed. Pure: ``metrics``.
"""
