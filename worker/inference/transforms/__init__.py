"""Preprocessing by MONAI's own transforms, for models that were trained elsewhere (bundle format 3)."""
