"""Self-supervised pretraining on pytorch-lightning: any installed method, resumable to the bit."""
