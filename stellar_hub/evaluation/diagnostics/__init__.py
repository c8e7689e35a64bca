"""What features tell about themselves, without labels: one measure per file, computed in float64."""
