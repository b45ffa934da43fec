"""A bundle becomes scores.

In come the files of a release and windows of samples; out come an :class:`~wheeltapper_agent.model.bundle.Evaluation`
for each batch of windows, and the figures of the self-test for the updater. ``tensors.py`` is pure; the other files
read bundles, start a child process or call a runtime library.
"""
