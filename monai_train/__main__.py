"""`python -m monai_train` is `monai-train`."""

from monai_train.cli.app import main

main()
