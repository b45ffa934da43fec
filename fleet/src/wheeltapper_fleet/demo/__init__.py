"""The demo: the whole loop on one machine, with processes of their own."""
