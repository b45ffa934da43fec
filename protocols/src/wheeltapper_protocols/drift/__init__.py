"""How far the windows of now are from those of training.

Features and scores of windows come in; mergeable sketches of a few hundred bytes and their distances from the
reference in the manifest go out. Every file here is pure: no I/O, no clock, no random numbers.
"""
