"""The infer role: claims jobs, runs models on them, keeps the bundle store."""
