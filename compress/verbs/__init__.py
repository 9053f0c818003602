"""What a verb does: it names candidates, has them evaluated, and says what came of it."""
