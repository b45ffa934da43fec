"""The Debian package, in bare systems of several processors."""
