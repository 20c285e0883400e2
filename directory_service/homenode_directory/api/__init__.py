"""The directory on the wire: frames and calls in, answers and events out."""
