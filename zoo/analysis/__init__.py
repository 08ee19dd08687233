"""What a net's structure says about it; nothing here knows a family."""
