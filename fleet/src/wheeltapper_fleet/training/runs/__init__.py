"""Executes runs: a recipe and its data come in; a folder with the bundle, its digests, metrics and plots goes out.

``child.py`` trains, in a process of its own that can be killed; ``execution.py`` starts and watches it; ``trainer.py``
does that for a service, ``local_store.py`` for a person. ``folder.py`` says what is in a run's folder. ``search.py``
chooses parameters by trials, which ``executors.py`` runs. Pure: ``plots.py``.
"""
