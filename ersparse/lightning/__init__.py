"""Training with PyTorch Lightning: LightningModules, callbacks, and the settings that `auto` resolves to."""
