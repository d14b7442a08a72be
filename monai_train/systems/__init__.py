"""The five earlier systems that `monai-train seeds` measures: a TOML file each, their splits, their training loop."""
