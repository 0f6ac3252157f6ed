"""Models: architectures, augmentation, optimizers, and the exported SavedModel."""
