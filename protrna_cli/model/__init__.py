"""Everything that knows TensorFlow: the checkpoint file, the forward pass, the devices."""
