"""In-flight batching: requests join and leave between decoder steps."""
