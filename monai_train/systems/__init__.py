"""The five systems that `monai-train seeds` measures: a TOML file each, their splits, and the loop that fits them."""
