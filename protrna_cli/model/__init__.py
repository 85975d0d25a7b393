"""All that knows TensorFlow: the checkpoint, the forward pass, the devices."""
