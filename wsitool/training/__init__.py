"""Self-supervised pretraining: any installed method, on one device or many, resumable to the bit."""
