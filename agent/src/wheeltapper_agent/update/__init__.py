"""An assignment comes in, and a release that runs goes out, or a report of why it does not.

The updater (``updater``) judges the assignment (``judging``, ``trust``), walks the table of states (``machine``) and
keeps its place in the journal (``progress``, ``journal``, ``floors``); what the states do is in ``obtaining`` (fetch,
stage, self-test) and then ``running`` (shadow, activate, probation, roll back). Pure, that is without I/O, clock and
random numbers, are ``comparison``, ``conditions``, ``deadline``, ``effect_result``, ``machine``, ``probation``,
``resume`` and ``trust``.
"""
