"""Everything that uses TensorFlow: checkpoints, the forward pass, devices."""
