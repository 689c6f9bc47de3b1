"""From neighbours to values: weights, aggregation, smoothing, denoising, evidence."""
