"""Training: from recordings to a gated bundle. Needs the extra ``train``; import its modules only where training
runs."""
