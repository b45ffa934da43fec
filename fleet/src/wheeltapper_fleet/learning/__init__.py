"""What models are trained on and how they came about: recordings and tables of many sources come in; immutable
versions of datasets go out, with their checks, and the releases that were trained on them.

Nothing in this room trains, so the running service may import it. Pure: the files of ``datasets/`` that
``tests/test_walls.py`` lists.
"""
