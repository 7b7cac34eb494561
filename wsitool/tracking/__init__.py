"""Where runs are told of beside their folder: TensorBoard, MLflow, Weights & Biases."""
