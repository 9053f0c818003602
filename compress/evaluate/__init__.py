"""The one way to measure: candidates -> processes -> rows."""
