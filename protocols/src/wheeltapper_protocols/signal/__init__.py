"""From raw samples to numbers: recordings, features of a window, data quality and vibration zones.

Samples [sample, channel] in physical units come in; feature rows, quality counts and ISO 20816 zones go out, and
recordings are read and written. All files are pure but ``recording``, which reads and writes files, and ``envelope``
(and so ``channel_plan`` and ``features``), which keeps one set of buffers a thread.
"""
