"""What the journals say, shown and kept."""
