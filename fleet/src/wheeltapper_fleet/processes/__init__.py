"""The processes of a service that is several: who is alive, and which one leads.

In come beats of each process; out go the names of those that are alive, and a database that only the leading process
can write through. No file here is pure.
"""
