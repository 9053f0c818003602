"""What is trained and kept: the artifact store, data by name, fine-tuning, records."""
