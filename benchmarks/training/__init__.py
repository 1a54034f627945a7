"""Steps, packing, memory and start-up against DeepSpeed alone and TRL."""
