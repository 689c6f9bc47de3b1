"""Image backbones, paired encoders, and the model folder."""
