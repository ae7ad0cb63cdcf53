"""Training: one LightningModule, thin callbacks that each call one thing of the core, and the Trainer's settings."""
