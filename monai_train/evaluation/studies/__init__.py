"""What a bundle of format 2 says of patients with several sequences: as studies, and sequence by sequence."""
