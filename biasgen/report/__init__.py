"""Tables and pictures from records; computes nothing."""
