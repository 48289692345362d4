"""What the speed and memory figures of the documents are measured with."""
