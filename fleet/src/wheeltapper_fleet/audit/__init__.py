"""What people and programs changed: who, what, when, in which request.

A change that was answered comes in, a row comes out. Every change is written through one function of ``store``. Pure:
``schemas``.
"""
