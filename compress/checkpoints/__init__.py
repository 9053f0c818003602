"""Ours and the user's models as files, looked at before they are read."""
