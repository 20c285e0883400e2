"""A small trained model and the generated tasks that it learned, so that quality is measured with no download."""
